"""Shows a training's events as they come in, and hands them to MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from components.console import Meter, duration, say
from components.records.training import Epoch
from components.tracking.runs import TrainingRun


class Follower(Meter):
    """Called with each event; `on_precision` gets what the probe chose."""

    def __init__(self, label: str, epochs: int, tracked: TrainingRun, on_precision: Callable[[str], None]) -> None:
        super().__init__(label)
        self.epochs, self.tracked, self.on_precision = epochs, tracked, on_precision
        self.begun = time.monotonic()
        self.workers: int | None = None

    def __call__(self, event: dict[str, Any]) -> None:
        event = dict(event)
        handle = getattr(self, f"_on_{event.pop('kind')}", None)
        if handle is not None:
            handle(**event)

    def end(self, history: list[Epoch], best: Epoch) -> None:
        """Training is over: logs the best epoch, and whatever epochs a lost event left out."""
        for row in history:
            self.tracked.epoch(row)
        self.tracked.metrics({f"best_{key}": value for key, value in best.model_dump().items()})

    def _on_started(self, workers: int) -> None:
        if self.workers not in (None, workers):
            say(f"{self.label}: going on with {workers} workers instead of {self.workers}")
        self.workers = workers

    def _on_warning(self, text: str) -> None:
        say(f"{self.label}: {text}")

    def _on_resumed(self, epoch: int, step: int, history: list[dict[str, Any]]) -> None:
        say(f"{self.label}: continuing in epoch {epoch}/{self.epochs}, after step {step}")
        for row in history:  # of which the run may lack what a killed driver did not get to log
            self.tracked.epoch(Epoch(**row))

    def _on_probe(self, precision: str, speedup: float, cosine: float) -> None:
        say(
            f"{self.label}: precision {precision} (bf16 measured {speedup:.2f}x as fast as fp32, "
            f"gradients agree to {cosine:.4f})"
        )
        self.on_precision(precision)
        self.tracked.metrics({"probe_speedup": speedup, "probe_cosine": cosine})

    def _on_step(self, epoch: int, step: int, done: float, loss: float, images_per_s: float, seconds_left: float) -> None:
        self.update(
            done,
            f"epoch {epoch}/{self.epochs}, step {step}, loss {loss:.3f}, {images_per_s:,.0f} images/s, "
            f"{duration(seconds_left)} left",
        )

    def _on_epoch(self, images_per_s: float, **row: Any) -> None:
        epoch = Epoch(**row)
        say(
            f"{self.label}: epoch {epoch.epoch}/{self.epochs}: loss {epoch.train_loss:.3f}, "
            f"train top-1 {epoch.train_top1:.2%}, val top-1 {epoch.val_top1:.2%}, {images_per_s:,.0f} images/s"
        )
        self.tracked.epoch(epoch, {"images_per_s": images_per_s})

    def _on_early(self, epoch: int, stale: int) -> None:
        say(f"{self.label}: stopped after epoch {epoch}: no improvement in {stale} epochs")
