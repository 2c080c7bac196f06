"""Tells about once a second how far training is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

_PULSE_S = 1.0


class Pulse:
    """Figures are those of all ranks; rates and the time left are of this process's own steps, not of a resumed run's."""

    def __init__(self, emit: Callable[[dict[str, Any]], None], rows: int, epochs: int, steps_per_epoch: int, step: int) -> None:
        self.emit, self.rows, self.epochs, self.steps_per_epoch = emit, rows, epochs, steps_per_epoch
        self.begun, self.first, self.step = time.monotonic(), step, step

    def begin_epoch(self, epoch: int) -> None:
        self.epoch, self.epoch_begun, self.epoch_step = epoch, time.monotonic(), self.step
        self.last, self.last_step = self.epoch_begun, self.step

    def beat(self, mean_loss: float) -> None:
        """One step is done; `mean_loss` is the epoch's so far."""
        self.step += 1
        now = time.monotonic()
        if now - self.last < _PULSE_S:
            return
        total = self.epochs * self.steps_per_epoch
        left = (now - self.begun) * (total - self.step) / (self.step - self.first)
        rate = self._images(self.step - self.last_step) / (now - self.last)
        self.last, self.last_step = now, self.step
        self.emit(
            {
                "kind": "step",
                "epoch": self.epoch,
                "step": self.step,
                "done": self.step / total,
                "loss": mean_loss,
                "images_per_s": rate,
                "seconds_left": left,
            }
        )

    def end_epoch(self) -> float:
        """Images per second of the epoch's steps, over all ranks."""
        return self._images(self.step - self.epoch_step) / (time.monotonic() - self.epoch_begun)

    def _images(self, steps: int) -> float:
        return steps * self.rows / self.steps_per_epoch
