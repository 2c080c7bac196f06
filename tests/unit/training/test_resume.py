"""Checkpoints: a resumed training ends with the same bytes as one that never stopped."""

from __future__ import annotations

from typing import Any

import pytest

from components.training.events import Resumed, StoppedEarly
from tests.unit.training.cases import STEPS_PER_EPOCH, Recorder, result_of, train


@pytest.mark.parametrize(
    "values",
    [{}, {"ema_decay": 0.9, "micro_batches": 3}, {"muon": {"learning_rate": 0.05}}],
    ids=["plain", "average", "muon"],
)
def test_resume_equals_uninterrupted_training(values: dict[str, Any]) -> None:
    """Resumes from the first step, the end and the middle of an epoch, and the last step."""
    recorder = Recorder()
    expected = result_of(train(**values, callback=recorder))
    assert sorted(recorder.checkpoints) == list(range(3 * STEPS_PER_EPOCH + 1))
    for step in (0, 1, 8, 13, 23, 24):
        resumed = train(**values, resume=recorder.checkpoints[step])
        assert result_of(resumed) == expected, step


def test_resume_reports_the_epochs_before_the_checkpoint() -> None:
    recorder = Recorder()
    history = train(callback=recorder).history
    resumed = Recorder()
    train(callback=resumed, resume=recorder.checkpoints[13])
    assert resumed.events[0] == Resumed(epoch=2, step=13, history=history[:1])
    assert resumed.steps_begun == list(range(13, 24))


def test_requested_stop_saves_a_checkpoint_to_resume_from() -> None:
    recorder = Recorder(every=1000, stop_after=11)
    outcome = train(callback=recorder)
    assert outcome.stopped_at_step == 11
    assert max(recorder.checkpoints) == 11
    assert not outcome.weights
    assert result_of(train(resume=recorder.checkpoints[11])) == result_of(train())


def test_early_stopping_keeps_its_count_across_a_resume() -> None:
    stopping = {"metric": "val_loss", "patience": 2, "min_delta": 0.5}
    recorder = Recorder()
    outcome = train(epochs=30, early_stopping=stopping, callback=recorder)
    epochs = len(outcome.history)
    assert 2 < epochs < 30
    assert recorder.events[-1] == StoppedEarly(epoch=epochs, epochs_without_improvement=2)
    assert outcome.best == min(outcome.history, key=lambda epoch: epoch.val_loss)
    state = recorder.checkpoints[STEPS_PER_EPOCH * epochs - 3]
    resumed = train(epochs=30, early_stopping=stopping, resume=state)
    assert result_of(resumed) == result_of(outcome)
