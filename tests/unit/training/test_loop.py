"""The loop in one process and in several (real process groups over gloo)."""

from __future__ import annotations

import multiprocessing
import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from components.artifacts import Channels, Epoch, Network
from components.errors import UserError
from components.models import build, weights
from components.params import Recipe
from components.training import loop
from tests.conftest import make_images

NETWORK = Network(
    architecture="cnn", width=8, shape=(12, 12, 1), classes=["a", "b", "c"], channels=Channels(mean=[80.0], std=[60.0])
)
TRAIN, VAL = make_images(190), make_images(2 * loop.VALIDATION_BATCH + 103, seed=1, prefix="val")  # three batches


def recipe(**values: Any) -> Recipe:
    return Recipe.model_validate({
        "architecture": "cnn", "width": 8, "epochs": 3, "learning_rate": 0.1, "warmup_epochs": 0.5,
        "augment": {"flip": 0.5, "crop_padding": 1}, **values,
    })  # fmt: skip


def train(**values: Any) -> loop.Outcome:
    settings: dict[str, Any] = {"global_batch": 24, "seed": 5, "precision": "fp32", **values}
    return loop.train(NETWORK, TRAIN, VAL, settings.pop("recipe", recipe()), device=torch.device("cpu"), **settings)


def _rank(rank: int, world: int, port: int, results: Any, job: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    if job == "validate":
        torch.manual_seed(0)
        results[rank] = loop.validate(build(NETWORK), VAL, torch.device("cpu"))
    else:
        outcome = train()
        results[rank] = (weights.sha256(NETWORK, outcome.state), [row.model_dump() for row in outcome.history])
    dist.destroy_process_group()


def in_world(world: int, job: str) -> list[Any]:
    """Runs a job on `world` ranks; what each of them returned."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.set_forkserver_preload([__name__])  # imports torch once for all of them
    with multiprocessing.get_context("forkserver").Manager() as manager:
        results = manager.dict()
        mp.start_processes(_rank, (world, port, results, job), nprocs=world, start_method="forkserver")
        return [results[rank] for rank in range(world)]


def test_it_learns_and_keeps_the_best_epoch() -> None:
    events: list[dict[str, Any]] = []
    outcome = train(recipe=recipe(epochs=6), emit=events.append)
    assert [row.epoch for row in outcome.history] == [1, 2, 3, 4, 5, 6]
    assert outcome.history[-1].step == 6 * 8
    assert outcome.best == max(outcome.history, key=lambda row: (row.val_top1, -row.val_loss))
    assert outcome.best.val_top1 > 0.9
    model = build(NETWORK)
    model.load_state_dict(outcome.state)
    assert loop.validate(model, VAL, torch.device("cpu")) == (outcome.best.val_loss, outcome.best.val_top1)
    told = [Epoch(**{k: v for k, v in e.items() if k in Epoch.model_fields}) for e in events if e["kind"] == "epoch"]
    assert told == outcome.history


def test_the_same_training_gives_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = train(), train(), train(seed=6)
    assert weights.sha256(NETWORK, first.state) == weights.sha256(NETWORK, again.state)
    assert first.history == again.history
    assert weights.sha256(NETWORK, first.state) != weights.sha256(NETWORK, other.state)


def test_validation_is_identical_for_any_world_size() -> None:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = loop.validate(build(NETWORK), VAL, torch.device("cpu"))
    torch.set_num_threads(threads)
    for world in (2, 3):
        assert in_world(world, "validate") == [alone] * world


def test_validation_counts_every_image_once() -> None:
    torch.manual_seed(0)
    model = build(NETWORK).eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(VAL.pixels)).double()
    labels = torch.from_numpy(VAL.labels)
    loss, top1 = loop.validate(model, VAL, torch.device("cpu"))
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)
    assert top1 == (logits.argmax(1) == labels).double().mean().item()


def test_two_ranks_end_with_the_same_weights_twice_and_count_exactly() -> None:
    first, again = in_world(2, "train"), in_world(2, "train")
    assert first[0][0] == again[0][0] == first[1][0]
    assert first[0][1] == again[0][1] == first[1][1]
    for row in first[0][1]:
        correct = row["train_top1"] * len(TRAIN)
        assert correct == pytest.approx(round(correct), abs=1e-9), "a whole number of images was counted"
    alone = train().history[-1]
    assert first[0][1][-1]["val_loss"] == pytest.approx(alone.val_loss, abs=0.25), "only batch norm tells the worlds apart"


def test_a_loss_that_is_not_finite_ends_training_with_its_epoch() -> None:
    with pytest.raises(UserError, match="training loss of epoch 1 is nan"):
        train(recipe=recipe(learning_rate=1e30, warmup_epochs=0))


def test_auto_precision_is_probed_and_told() -> None:
    events: list[dict[str, Any]] = []
    outcome = train(precision="auto", recipe=recipe(epochs=1), emit=events.append)
    assert events[0]["kind"] == "probe"
    assert outcome.precision == events[0]["precision"] in ("fp32", "bf16")


def test_bf16_trains_too() -> None:
    assert train(precision="bf16", recipe=recipe(epochs=6)).best.val_top1 > 0.9  # type: ignore[union-attr]
