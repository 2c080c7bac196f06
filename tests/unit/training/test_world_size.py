"""Training on several ranks, in real process groups over gloo."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from components.errors import PeerLostError, UserError
from components.models.architectures import build
from components.training import loop
from components.training.validation import validate
from tests.conftest import make_images
from tests.unit.training.cases import (
    CPU,
    GLOBAL_BATCH,
    NETWORK,
    TRAIN,
    VAL,
    Recorder,
    Result,
    make_config,
    make_store,
    result_of,
    run_on_ranks,
    train,
    train_on_rank,
)

POLICY = [
    {"name": "resized_crop"},
    {"name": "colour_jitter", "brightness": 0.2, "contrast": 0.2},
    {"name": "rand_augment", "operations": 1},
]


@pytest.mark.parametrize(("micro_batches", "worlds"), [(4, (2, 4)), (5, (3,))])
def test_weights_and_history_do_not_depend_on_world_size(
    micro_batches: int, worlds: tuple[int, ...]
) -> None:
    """The last global batch of an epoch is short, so that ranks compute unequal shares of it."""
    values = {
        "micro_batches": micro_batches,
        "ema_decay": 0.9,
        "clip_gradient_norm": 1.0,
        "epochs": 2,
    }
    single = run_on_ranks(1, train_on_rank, **values)
    for world in worlds:
        assert run_on_ranks(world, train_on_rank, **values) == single * world
    _, history = single[0]
    for epoch in history:
        correct = epoch["train_top1"] * len(TRAIN)
        assert correct == pytest.approx(round(correct), abs=1e-9), "not a whole number of images"


@pytest.mark.parametrize(
    "values",
    [
        {"loss": {"name": "focal", "class_weights": "balanced"}, "sampling": "balanced"},
        {"augment": {"flip": 0.5, "mixup": 0.2, "cutmix": 1.0}},
        {"muon": {"learning_rate": 0.05}},
        {"augment": {"flip": 0.5, "policy": POLICY}, "train_size": 10},
        {"augment": {"policy": POLICY, "mixup": 0.2}},
    ],
    ids=["balance", "mixing", "muon", "policy", "policy and mixing"],
)
def test_balance_mixing_muon_and_policies_do_not_depend_on_world_size_or_resume(
    values: dict[str, Any],
) -> None:
    values = values | {"micro_batches": 2}
    recorder = Recorder(every=11)
    expected = result_of(train(**values, callback=recorder))
    assert expected[1][-1]["val_top1"] > 0.6
    assert result_of(train(**values, resume=recorder.checkpoints[11])) == expected
    single = run_on_ranks(1, train_on_rank, **values)
    assert run_on_ranks(2, train_on_rank, **values) == single * 2


def train_wide_on_rank(**values: Any) -> Result:
    """Train a network of more than one megabyte, whose gradients fill several buckets.

    The last of its global batches has two images, which is one micro-batch: one rank has none.
    """
    config = make_config(train_images=make_images(3 * GLOBAL_BATCH + 2), epochs=2, **values)
    network = NETWORK.model_copy(update={"width": 48})
    return result_of(loop.train(replace(config, network=network), precision="fp32"))


@pytest.mark.parametrize("recipe", [{}, {"ema_decay": 0.9, "clip_gradient_norm": 0.5}])
def test_sum_of_two_micro_batches_is_the_same_in_any_order(recipe: dict[str, Any]) -> None:
    ordered = run_on_ranks(1, train_wide_on_rank, micro_batches=2, **recipe)
    assert run_on_ranks(2, train_wide_on_rank, micro_batches=2, reduction="ddp", **recipe) == (
        ordered * 2
    )


def test_ranks_agree_whatever_the_order_of_the_sum() -> None:
    values = {"micro_batches": 7, "muon": {"learning_rate": 0.05}}
    _, expected = run_on_ranks(1, train_on_rank, **values)[0]
    results = run_on_ranks(3, train_on_rank, reduction="ddp", **values)
    assert results == results[:1] * 3
    losses = [epoch["train_loss"] for epoch in results[0][1]]
    assert losses == pytest.approx([epoch["train_loss"] for epoch in expected], rel=1e-3)


def validate_on_rank() -> tuple[float, float]:
    torch.manual_seed(0)
    return validate(build(NETWORK), make_store(VAL), CPU)


def test_validation_does_not_depend_on_world_size() -> None:
    single = run_on_ranks(1, validate_on_rank)
    assert run_on_ranks(3, validate_on_rank) == single * 3


class GroupDestroyer(Recorder):
    """Destroys the process group in the n-th call of `on_progress`.

    Ray Train's default backend does so on the remaining ranks when one is lost.
    """

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls_left = calls

    def on_progress(self) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            dist.destroy_process_group()


def train_and_lose_group(calls: int) -> tuple[list[int], str]:
    """Return the steps of all checkpoints, and the error that ended the training."""
    callback = GroupDestroyer(calls)
    try:
        train(micro_batches=2, callback=callback)
    except PeerLostError as error:
        return list(callback.checkpoints), str(error)
    return list(callback.checkpoints), "the training continued"


@pytest.mark.parametrize(
    ("calls", "last"), [(4, 4), (9, 8)], ids=["between two steps", "while validating"]
)
def test_rank_without_its_group_makes_no_further_step(calls: int, last: int) -> None:
    steps, error = run_on_ranks(2, train_and_lose_group, calls=calls)[0]
    assert steps == list(range(last + 1)), "a step alone differs from a step of the group"
    assert "group" in error


def train_to_error(**values: Any) -> str:
    with pytest.raises(UserError) as caught:
        train(**values)
    return str(caught.value)


def test_error_for_infinite_loss_names_ranks_and_examples() -> None:
    errors = run_on_ranks(2, train_to_error, micro_batches=2, learning_rate=1e30, warmup_epochs=0)
    assert errors[0] == errors[1]
    assert re.search(
        r"epoch 1, step \d of 8: the loss is (nan|inf) \(.*rank 1: train/\d+, .* and \d+ more",
        errors[0],
    )
