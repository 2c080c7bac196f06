from __future__ import annotations

import pytest

from components.training import progress
from components.training.events import StepProgress


def test_progress_is_reported_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    events: list[StepProgress] = []
    # 80 images in 8 steps; resumed in the second of two epochs, after 10 of 16 steps.
    reporter = progress.ProgressReporter(events.append, 80, 2, 8, 10)
    reporter.begin_epoch(2)
    for _ in range(5):
        now += 0.5
        reporter.on_step(lambda: 1.25)
    assert [event.step for event in events] == [12, 14]
    assert events[-1] == StepProgress(
        epoch=2,
        step=14,
        fraction_done=14 / 16,
        mean_loss=1.25,
        images_per_s=20.0,
        seconds_left=1.0,
    )
    assert reporter.end_epoch() == 20.0
