"""Starting weights, a frozen backbone and its learning rate: bits, statistics, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from components.models.architectures import build
from components.models.initial import find_head
from components.training import loop
from tests.unit.training.cases import (
    NETWORK,
    STEPS_PER_EPOCH,
    Recorder,
    assert_same_on_ranks_and_after_resume,
    make_config,
    run_on_ranks,
    train,
    train_on_rank,
)

STATISTICS = ("weight", "bias", "running_mean", "running_var")


@pytest.fixture(scope="module")
def initial() -> bytes:
    """Return weights of the backbone that a short training has made."""
    outcome = train(epochs=1, seed=99)
    head = f"network.{find_head(build(NETWORK).network)}."
    return save(
        {
            name.removeprefix("network."): tensor.contiguous()
            for name, tensor in outcome.weights.items()
            if name.startswith("network.") and not name.startswith(head)
        }
    )


CASES: list[dict[str, Any]] = [
    {"freeze_backbone": True},
    {"freeze_epochs": 1, "ema_decay": 0.9, "layer_decay": 0.5},
    {"backbone_learning_rate": 0.1, "ema_decay": 0.9, "clip_gradient_norm": 1.0},
]


@pytest.mark.parametrize("values", CASES, ids=["frozen", "frozen at first", "slow backbone"])
def test_weights_do_not_depend_on_world_size_or_resume(
    initial: bytes, values: dict[str, Any]
) -> None:
    values = values | {"init": "x", "initial": initial, "micro_batches": 3, "epochs": 2}
    assert_same_on_ranks_and_after_resume((0, 8, 9), **values)  # epochs have 8 steps


def test_frozen_backbone_keeps_every_bit_and_the_head_learns(initial: bytes) -> None:
    backbone = {f"network.{k}": v for k, v in _load(initial).items()}
    outcome = train(init="x", initial=initial, freeze_backbone=True, micro_batches=2)
    for name, tensor in backbone.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(outcome.weights[name], tensor), name
    assert outcome.history[-1].train_loss < outcome.history[0].train_loss


def _load(data: bytes) -> dict[str, torch.Tensor]:
    return load(data)


def test_training_starts_with_the_given_weights(initial: bytes) -> None:
    started = loop.train(make_config(epochs=1, learning_rate=1e-9, initial=initial, init="x"))
    name = "network.0.weight"
    torch.testing.assert_close(started.weights[name], _load(initial)["0.weight"])


def test_head_for_other_classes_starts_at_zero(initial: bytes) -> None:
    """Random weights would stay where the features of a few images do not vary."""
    values = {"init": "x", "initial": initial, "epochs": 1, "learning_rate": 1e-9}
    head = f"network.{find_head(build(NETWORK).network)}.weight"
    assert train(**values).weights[head].abs().max() < 1e-6
    whole = save(
        {name: torch.ones_like(t) for name, t in build(NETWORK).network.state_dict().items()}
    )
    assert train(**values | {"initial": whole}).weights[head].min() > 0.9, "a given head stays"


def test_slower_backbone_moves_less(initial: bytes) -> None:
    distances = []
    for factor in (1.0, 0.01):
        weights = train(init="x", initial=initial, epochs=1, backbone_learning_rate=factor).weights
        distances.append(float((weights["network.0.weight"] - _load(initial)["0.weight"]).norm()))
    assert distances[1] < 0.1 * distances[0]


def test_backbone_is_frozen_for_some_epochs_and_then_trained(initial: bytes) -> None:
    recorder = Recorder()
    train(init="x", initial=initial, freeze_epochs=1, epochs=2, callback=recorder)
    start = {f"network.{k}": v for k, v in _load(initial).items() if k.endswith(STATISTICS)}
    at_switch = recorder.checkpoints[STEPS_PER_EPOCH]["model"]
    after = recorder.checkpoints[STEPS_PER_EPOCH + 1]["model"]
    for name, tensor in start.items():
        assert torch.equal(at_switch[name], tensor), name
        assert not torch.equal(after[name], tensor), name


def test_ddp_reduction_trains_the_backbone_after_the_switch(initial: bytes) -> None:
    values = {"init": "x", "initial": initial, "micro_batches": 2, "epochs": 2, "freeze_epochs": 1}
    overlapped = run_on_ranks(2, train_on_rank, reduction="ddp", **values)
    ordered = run_on_ranks(1, train_on_rank, **values)[0]
    assert overlapped[0] == overlapped[1]
    losses = [[epoch["train_loss"] for epoch in result[1]] for result in (overlapped[0], ordered)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
