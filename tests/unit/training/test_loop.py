"""The training loop in one process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.data.format.shards import write_split
from components.data.loading.image_stores import open_image_store
from components.errors import UserError
from components.models.architectures import build
from components.training import loop
from components.training.config import LoopConfig
from components.training.events import EpochFinished, PrecisionProbed, TrainingWarning
from components.training.validation import validate
from tests.conftest import make_images
from tests.unit.training.cases import (
    CPU,
    NETWORK,
    STEPS_PER_EPOCH,
    TRAIN,
    VAL,
    Recorder,
    make_config,
    make_store,
    result_of,
    train,
)


def test_training_learns_and_keeps_the_best_epoch() -> None:
    recorder = Recorder()
    outcome = train(epochs=6, callback=recorder)
    assert [epoch.epoch for epoch in outcome.history] == [1, 2, 3, 4, 5, 6]
    assert outcome.history[-1].step == 6 * STEPS_PER_EPOCH
    assert outcome.best == max(outcome.history, key=lambda e: (e.val_top1, -e.val_loss))
    assert outcome.best.val_top1 > 0.9
    model = build(NETWORK)
    model.load_state_dict(outcome.weights)
    expected = (outcome.best.val_loss, outcome.best.val_top1)
    assert validate(model, make_store(VAL), CPU) == expected
    events = [event for event in recorder.events if isinstance(event, EpochFinished)]
    assert [event.row for event in events] == outcome.history


def test_same_seed_gives_same_bytes_and_another_seed_others() -> None:
    assert result_of(train()) == result_of(train())
    assert result_of(train())[0] != result_of(train(seed=6))[0]


def test_callback_sees_the_beginning_of_every_step() -> None:
    recorder = Recorder()
    train(epochs=2, callback=recorder)
    assert recorder.steps_begun == list(range(2 * STEPS_PER_EPOCH))


@pytest.mark.parametrize(
    "values",
    [{"sampling": "balanced"}, {"loss": {"class_weights": "balanced"}}],
    ids=["sampling", "weights"],
)
def test_balancing_improves_recall_of_rare_classes(values: dict[str, Any]) -> None:
    """Ten classes, from 300 images down to 3 (100:1); macro-recall with fixed seeds."""
    balanced = make_images(3000, classes=10, size=20)
    rows = np.concatenate(
        [np.flatnonzero(balanced.labels == k)[: round(300 / 100 ** (k / 9))] for k in range(10)]
    )
    classes = [str(k) for k in range(10)]
    network = NETWORK.model_copy(update={"shape": (20, 20, 1), "classes": classes})
    test = make_images(500, classes=10, size=20, seed=1, prefix="test")

    def macro_recall(**recipe: Any) -> float:
        config = dataclasses.replace(
            make_config(train_images=balanced.take(rows), epochs=3, **recipe),
            network=network,
            val=make_store(test),
        )
        model = build(network)
        model.load_state_dict(loop.train(config, precision="fp32").weights)
        with torch.inference_mode():
            predicted = model.eval()(torch.from_numpy(test.pixels)).argmax(1).numpy()
        return float(np.mean([(predicted[test.labels == k] == k).mean() for k in range(10)]))

    assert macro_recall(**values) > macro_recall() + 0.05


def test_images_on_disk_give_same_weights_as_in_memory(tmp_path: Path) -> None:
    write_split(tmp_path / "train", "train", TRAIN, NETWORK.classes, 1)
    store = open_image_store(tmp_path / "train", "disk", tmp_path / "cache", CPU, 1)
    config = dataclasses.replace(make_config(micro_batches=2), train=store)
    assert result_of(loop.train(config, precision="fp32")) == result_of(train(micro_batches=2))


def test_average_weights_are_validated_and_kept() -> None:
    recorder = Recorder(every=1000)
    outcome = train(epochs=1, ema_decay=0.5, callback=recorder)
    state = recorder.checkpoints[STEPS_PER_EPOCH]
    kept = outcome.weights["network.0.weight"]
    assert torch.equal(kept, state["ema"]["model"]["network.0.weight"])
    assert not torch.equal(kept, state["model"]["network.0.weight"])
    model = build(NETWORK)
    model.load_state_dict(outcome.weights)
    assert validate(model, make_store(VAL), CPU)[0] == outcome.history[0].val_loss


def test_long_gradient_is_clipped_to_its_norm() -> None:
    torch.manual_seed(0)
    recorder = Recorder()
    train(
        epochs=1,
        learning_rate=0.1,
        momentum=0,
        weight_decay=0,
        warmup_epochs=0,
        clip_gradient_norm=0.01,
        callback=recorder,
    )
    before = recorder.checkpoints[0]["model"]
    after = recorder.checkpoints[1]["model"]
    names = [name for name in before if name.endswith((".weight", ".bias"))]
    change = torch.cat([(after[name] - before[name]).flatten() for name in names])
    assert change.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_loss_that_is_not_finite_ends_training_before_the_step() -> None:
    recorder = Recorder()
    with pytest.raises(UserError, match=r"step [2-8] of 8: .* nothing of that step was saved"):
        train(learning_rate=1e30, warmup_epochs=0, callback=recorder)
    for state in recorder.checkpoints.values():
        assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_pending_preemption_saves_a_checkpoint_once_with_a_warning() -> None:
    class PreemptedAtStep3(Recorder):
        def preemption_pending(self) -> bool:
            return len(self.steps_begun) >= 3

    recorder = PreemptedAtStep3(every=1000)
    train(epochs=1, callback=recorder)
    assert list(recorder.checkpoints) == [0, 3, STEPS_PER_EPOCH]
    warnings = [event for event in recorder.events if isinstance(event, TrainingWarning)]
    assert [event.text for event in warnings] == [
        "a machine is about to leave: the state after step 3 is safe"
    ]


class CheckedLate(LoopConfig):
    """Looks at the totals of a step while the next is computed, as on a GPU."""

    max_unchecked_steps = 1


def train_checked_late(resume: dict[str, Any] | None = None, **values: Any) -> loop.TrainingOutcome:
    config = make_config(**values)
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return loop.train(CheckedLate(**fields), precision="fp32", resume=resume)


def test_checking_steps_late_changes_no_result() -> None:
    values: dict[str, Any] = {
        "micro_batches": 2,
        "ema_decay": 0.9,
        "clip_gradient_norm": 0.5,
    }
    recorder = Recorder()
    assert result_of(train_checked_late(callback=recorder, **values)) == result_of(train(**values))
    resumed = train_checked_late(resume=recorder.checkpoints[STEPS_PER_EPOCH + 3], **values)
    assert result_of(resumed) == result_of(train(**values))


def test_loss_found_late_not_to_be_finite_is_in_no_checkpoint() -> None:
    recorder = Recorder()
    with pytest.raises(UserError, match=r"epoch 1, step [2-8] of 8: .* nothing of that step"):
        train_checked_late(learning_rate=1e30, warmup_epochs=0, callback=recorder)
    assert recorder.checkpoints
    for state in recorder.checkpoints.values():
        assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_preemption_and_stop_that_are_seen_late() -> None:
    class PreemptedAtStep3(Recorder):
        def preemption_pending(self) -> bool:
            return len(self.steps_begun) >= 3

    recorder = PreemptedAtStep3(every=1000, stop_after=6)
    outcome = train_checked_late(epochs=1, callback=recorder)
    assert (outcome.stopped_at_step, list(recorder.checkpoints)) == (7, [0, 4, 7])
    resumed = train_checked_late(epochs=1, resume=recorder.checkpoints[7])
    assert result_of(resumed) == result_of(train(epochs=1))


def test_auto_precision_is_probed_and_kept_by_a_resume() -> None:
    recorder = Recorder()
    outcome = train(precision="auto", epochs=1, callback=recorder)
    event = recorder.events[0]
    assert isinstance(event, PrecisionProbed)
    assert outcome.precision == event.precision in ("fp32", "bf16")
    other = "bf16" if outcome.precision == "fp32" else "fp32"
    state = recorder.checkpoints[0] | {"precision": other}
    assert train(precision="auto", epochs=1, resume=state).precision == other


def test_bf16_training_learns() -> None:
    outcome = train(precision="bf16", epochs=6)
    assert outcome.best is not None
    assert outcome.best.val_top1 > 0.9
