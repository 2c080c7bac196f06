"""The loop in one process and in several (real process groups over gloo)."""

from __future__ import annotations

import dataclasses
import io
import multiprocessing
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from components.data.format.images import Images
from components.data.format.shards import write_split
from components.data.loading.image_stores import Resident, open_pool
from components.errors import PeerLostError, UserError
from components.models import build, weights
from components.params import Recipe
from components.records.splits import Channels
from components.records.training import Epoch, Network
from components.training import loop
from components.training.callback import ALONE, Surroundings
from components.training.collectives import pairwise_sum
from components.training.reducer import Reducer, deal
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


def pool(images: Images) -> Resident:
    return Resident(images, torch.device("cpu"))


def run(micro_batches: int = 1, around: Surroundings = ALONE, seed: int = 5, train: Images = TRAIN, **values: Any) -> loop.Run:
    return loop.Run(
        network=NETWORK, train=pool(train), val=pool(VAL), recipe=recipe(**values),
        global_batch=24, micro_batches=micro_batches,
        seed=seed, device=torch.device("cpu"), around=around,
    )  # fmt: skip


def train(precision: str = "fp32", resume: dict[str, Any] | None = None, **values: Any) -> loop.Outcome:
    return loop.train(run(**values), precision=precision, resume=resume)


def facts(outcome: loop.Outcome) -> tuple[str, list[dict[str, Any]]]:
    """The weights' digest and the history: what has to be the same to the bit."""
    return weights.sha256(NETWORK, outcome.state), [row.model_dump() for row in outcome.history]


def _rank(rank: int, world: int, port: int, results: Any, job: str, values: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    if job == "validate":
        torch.manual_seed(0)
        results[rank] = loop.validate(build(NETWORK), pool(VAL), torch.device("cpu"))
    elif job == "bereft":
        results[rank] = bereft(**values)
    else:
        try:
            results[rank] = facts(train(**values))
        except UserError as error:
            results[rank] = str(error)
    if world > 1 and dist.is_initialized():
        dist.destroy_process_group()


def bereft(calls: int) -> tuple[list[int], str]:
    """Ray Train destroys the group under the ranks that are left when one is lost: the steps saved, and how training ended."""
    recorder = Recorder()
    signs = 0

    def alive() -> None:
        nonlocal signs
        signs += 1
        if signs == calls:
            dist.destroy_process_group()

    try:
        train(micro_batches=2, around=dataclasses.replace(recorder.surroundings(), alive=alive))
    except PeerLostError as error:
        return list(recorder.states), str(error)
    return list(recorder.states), "it went on"


def in_world(world: int, job: str, **values: Any) -> list[Any]:
    """Runs a job on `world` ranks; what each of them returned."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.set_forkserver_preload([__name__])  # imports torch once for all of them
    with multiprocessing.get_context("forkserver").Manager() as manager:
        results = manager.dict()
        mp.start_processes(_rank, (world, port, results, job, values), nprocs=world, start_method="forkserver")
        return [results[rank] for rank in range(world)]


class Recorder:
    """Keeps events and states, and asks for an end after some steps."""

    def __init__(self, every: int = 1, stop_after: int | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.states: dict[int, dict[str, Any]] = {}
        self.every, self.stop_after, self.steps = every, stop_after, 0

    def surroundings(self) -> Surroundings:
        return Surroundings(emit=self.events.append, save=self.save, due=lambda step: step % self.every == 0, stop=self.stop)

    def save(self, state: dict[str, Any], wait: bool) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        self.states[state["step"]] = torch.load(buffer, weights_only=True)

    def stop(self) -> bool:
        self.steps += 1
        return self.steps == self.stop_after


def test_it_learns_and_keeps_the_best_epoch() -> None:
    recorder = Recorder()
    outcome = train(epochs=6, around=recorder.surroundings())
    assert [row.epoch for row in outcome.history] == [1, 2, 3, 4, 5, 6]
    assert outcome.history[-1].step == 6 * 8
    assert outcome.best == max(outcome.history, key=lambda row: (row.val_top1, -row.val_loss))
    assert outcome.best.val_top1 > 0.9
    model = build(NETWORK)
    model.load_state_dict(outcome.state)
    assert loop.validate(model, pool(VAL), torch.device("cpu")) == (outcome.best.val_loss, outcome.best.val_top1)
    told = [Epoch(**{k: v for k, v in e.items() if k in Epoch.model_fields}) for e in recorder.events if e["kind"] == "epoch"]
    assert told == outcome.history


def test_the_same_training_gives_the_same_bytes_and_another_seed_others() -> None:
    assert facts(train()) == facts(train())
    assert facts(train())[0] != facts(train(seed=6))[0]


def test_validation_is_identical_for_any_world_size() -> None:
    alone = in_world(1, "validate")
    assert in_world(3, "validate") == alone * 3


def test_validation_counts_every_image_once() -> None:
    torch.manual_seed(0)
    model = build(NETWORK).eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(VAL.pixels)).double()
    labels = torch.from_numpy(VAL.labels)
    loss, top1 = loop.validate(model, pool(VAL), torch.device("cpu"))
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)
    assert top1 == (logits.argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize(("micro_batches", "worlds"), [(4, (2, 3, 4)), (5, (3,))])
def test_weights_and_history_do_not_depend_on_the_number_of_ranks(micro_batches: int, worlds: tuple[int, ...]) -> None:
    """190 images in batches of 24 leave one of 22: shares are unequal, too."""
    values = {"micro_batches": micro_batches, "ema_decay": 0.9, "clip_gradient_norm": 1.0, "epochs": 2}
    alone = in_world(1, "train", **values)
    for world in worlds:
        assert in_world(world, "train", **values) == alone * world
    for row in alone[0][1]:
        correct = row["train_top1"] * len(TRAIN)
        assert correct == pytest.approx(round(correct), abs=1e-9), "a whole number of images was counted"


def test_micro_batches_make_the_gradient_of_the_whole_batch() -> None:
    """Without batch norm's statistics in between, parts add up to the whole."""
    gradients = []
    for micro_batches in (1, 5):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3))
        reducer = Reducer(model)
        parts = torch.arange(22).tensor_split(micro_batches)
        pixels, labels = torch.from_numpy(TRAIN.pixels).float() / 255, torch.from_numpy(TRAIN.labels)

        def compute(i: int, model: Any = model, parts: Any = parts, pixels: Any = pixels, labels: Any = labels) -> torch.Tensor:
            loss = torch.nn.functional.cross_entropy(model(pixels[parts[i]]), labels[parts[i]], reduction="sum")
            (loss / 22).backward()
            return torch.stack([loss.detach(), torch.tensor(float(len(parts[i])))])

        totals = reducer.reduce(micro_batches, compute)
        assert totals.correct == 22
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
        assert totals.gradient_norm == pytest.approx(gradients[-1].norm().item(), rel=1e-6)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("leaves", range(1, 12))
def test_micro_batches_are_dealt_out_whole_and_in_aligned_blocks(leaves: int) -> None:
    for world in range(1, 6):
        shares, block = deal(leaves, world)
        assert [i for share in shares for i in share] == list(range(leaves))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        for share in shares:
            assert all(start % block == 0 for start in share[::block])


@pytest.mark.parametrize("count", range(1, 20))
def test_any_aligned_block_may_be_summed_beforehand(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    parts = [torch.randn(7, generator=generator) * 10 ** (n % 5) for n in range(count)]
    whole = pairwise_sum([p.clone() for p in parts])
    torch.testing.assert_close(whole, torch.stack(parts).double().sum(0).float(), rtol=1e-4, atol=1e-3)
    for block in (2, 4, 8):
        sums = [pairwise_sum([p.clone() for p in parts[start : start + block]]) for start in range(0, count, block)]
        assert torch.equal(pairwise_sum(sums), whole)


@pytest.mark.parametrize(
    "values", [{}, {"ema_decay": 0.9, "micro_batches": 3}, {"muon": {"learning_rate": 0.05}}], ids=["plain", "average", "muon"]
)
def test_a_training_resumed_anywhere_ends_with_the_same_bytes(values: dict[str, Any]) -> None:
    """190 images in batches of 24: eight steps an epoch, of which the third's end, the middle and the first are resumed."""
    recorder = Recorder()
    whole = facts(train(**values, around=recorder.surroundings()))
    assert sorted(recorder.states) == list(range(25))
    for step in (0, 1, 8, 13, 23, 24):
        assert facts(train(**values, resume=recorder.states[step])) == whole, step


@pytest.mark.parametrize(
    "values", [{"loss": {"name": "focal", "class_weights": "balanced"}, "sampling": "balanced"},
               {"augment": {"flip": 0.5, "mixup": 0.2, "cutmix": 1.0}}, {"muon": {"learning_rate": 0.05}}],
    ids=["balance", "mixing", "muon"],
)  # fmt: skip
def test_balance_mixing_and_muon_do_not_depend_on_ranks_or_interruptions(values: dict[str, Any]) -> None:
    recorder = Recorder(every=11)
    whole = facts(train(**values, micro_batches=2, around=recorder.surroundings()))
    assert whole[1][-1]["val_top1"] > 0.6
    assert facts(train(**values, micro_batches=2, resume=recorder.states[11])) == whole
    assert in_world(2, "train", micro_batches=2, **values) == in_world(1, "train", micro_batches=2, **values) * 2


@pytest.mark.parametrize(
    "values", [{"sampling": "balanced"}, {"loss": {"class_weights": "balanced"}}], ids=["sampling", "weights"]
)
def test_balancing_helps_rare_classes(values: dict[str, Any]) -> None:
    """Ten classes, from 300 images down to 3 (100:1): macro-recall with and without, seeds fixed."""
    every = make_images(3000, classes=10, size=20)
    rows = np.concatenate([np.flatnonzero(every.labels == k)[: round(300 / 100 ** (k / 9))] for k in range(10)])
    network = NETWORK.model_copy(update={"shape": (20, 20, 1), "classes": [str(k) for k in range(10)]})
    test = make_images(500, classes=10, size=20, seed=1, prefix="test")

    def macro_recall(**recipe_values: Any) -> float:
        made = dataclasses.replace(run(train=every.take(rows), epochs=3, **recipe_values), network=network, val=pool(test))
        model = build(network)
        model.load_state_dict(loop.train(made, precision="fp32").state)
        with torch.inference_mode():
            predicted = model.eval()(torch.from_numpy(test.pixels)).argmax(1).numpy()
        return float(np.mean([(predicted[test.labels == k] == k).mean() for k in range(10)]))

    assert macro_recall(**values) > macro_recall() + 0.05


def test_images_on_the_disk_make_the_same_weights(tmp_path: Path) -> None:
    write_split(tmp_path / "train", "train", TRAIN, NETWORK.classes, 1)
    disk = open_pool(tmp_path / "train", "disk", tmp_path / "cache", torch.device("cpu"), 1)
    streamed = loop.train(dataclasses.replace(run(micro_batches=2), train=disk), precision="fp32")
    assert facts(streamed) == facts(train(micro_batches=2))


def test_a_wish_to_stop_leaves_a_state_to_go_on_from() -> None:
    recorder = Recorder(every=1000, stop_after=11)
    stopped = train(around=recorder.surroundings())
    assert stopped.stopped == 11
    assert max(recorder.states) == 11
    assert not stopped.state
    assert facts(train(resume=recorder.states[11])) == facts(train())


def test_early_stopping_keeps_its_count_across_a_resume() -> None:
    stopping = {"metric": "val_loss", "patience": 2, "min_delta": 0.5}
    recorder = Recorder()
    whole = train(epochs=30, early_stopping=stopping, around=recorder.surroundings())
    assert 2 < len(whole.history) < 30
    assert recorder.events[-1] == {"kind": "early", "epoch": len(whole.history), "stale": 2}
    assert whole.best == min(whole.history, key=lambda row: row.val_loss)
    again = train(epochs=30, early_stopping=stopping, resume=recorder.states[8 * len(whole.history) - 3])
    assert facts(again) == facts(whole)


def test_averaged_weights_are_the_ones_validated_and_kept() -> None:
    recorder = Recorder(every=1000)
    outcome = train(epochs=1, ema_decay=0.5, around=recorder.surroundings())
    last = recorder.states[8]
    assert torch.equal(outcome.state["network.0.weight"], last["average"]["module.network.0.weight"])
    assert not torch.equal(outcome.state["network.0.weight"], last["model"]["network.0.weight"])
    model = build(NETWORK)
    model.load_state_dict(outcome.state)
    assert loop.validate(model, pool(VAL), torch.device("cpu"))[0] == outcome.history[0].val_loss


def test_a_long_gradient_is_clipped_to_its_norm() -> None:
    torch.manual_seed(0)
    recorder = Recorder()
    train(epochs=1, momentum=0, weight_decay=0, warmup_epochs=0, clip_gradient_norm=0.01, around=recorder.surroundings())
    one, two = recorder.states[0]["model"], recorder.states[1]["model"]
    moved = [two[name] - one[name] for name in one if name.endswith((".weight", ".bias"))]
    assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_ends_training_before_the_step(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(UserError, match=r"epoch 1, step [2-8] of 8: .* the step was not made"):
        train(learning_rate=1e30, warmup_epochs=0, around=recorder.surroundings())
    for state in recorder.states.values():
        assert all(torch.isfinite(value).all() for value in state["model"].values())


@pytest.mark.parametrize(("calls", "last"), [(4, 4), (9, 8)], ids=["between two steps", "while validating"])
def test_a_rank_whose_group_is_gone_makes_no_step_of_its_own(calls: int, last: int) -> None:
    steps, error = in_world(2, "bereft", calls=calls)[0]
    assert steps == list(range(last + 1)), "what it would make alone is not what the group makes"
    assert "group" in error


def test_it_names_the_ranks_and_the_examples() -> None:
    errors = in_world(2, "train", micro_batches=2, learning_rate=1e30, warmup_epochs=0)
    assert errors[0] == errors[1]
    assert re.search(r"epoch 1, step \d of 8: the loss is (nan|inf) \(.*rank 1: train/\d+, .* and \d+ more", errors[0])


def test_auto_precision_is_probed_and_told_and_kept_by_a_resume() -> None:
    recorder = Recorder()
    outcome = train(precision="auto", epochs=1, around=recorder.surroundings())
    assert recorder.events[0]["kind"] == "probe"
    assert outcome.precision == recorder.events[0]["precision"] in ("fp32", "bf16")
    other = recorder.states[0] | {"precision": "bf16" if outcome.precision == "fp32" else "fp32"}
    assert train(precision="auto", epochs=1, resume=other).precision == other["precision"]


def test_bf16_trains_too() -> None:
    assert train(precision="bf16", epochs=6).best.val_top1 > 0.9  # type: ignore[union-attr]
