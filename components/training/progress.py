"""Progress of a training: throughput and the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable

from components.training.events import StepProgress

_INTERVAL_S = 1.0


class ProgressReporter:
    """Emits a `StepProgress` about once a second.

    Throughput counts the images of all ranks. Throughput and remaining time are measured on the
    steps of this process, without the steps before a resume.

    Args:
        emit: receives the events.
        num_images: images of the training split.
        epochs: epochs of the whole training.
        steps_per_epoch: optimiser steps of an epoch.
        step: optimiser steps done before, when the training is resumed.
    """

    def __init__(
        self,
        emit: Callable[[StepProgress], None],
        num_images: int,
        epochs: int,
        steps_per_epoch: int,
        step: int,
    ) -> None:
        self.emit = emit
        self.total_steps = epochs * steps_per_epoch
        self.images_per_step = num_images / steps_per_epoch
        self.start_time = time.monotonic()
        self.start_step = step
        self.step = step

    def begin_epoch(self, epoch: int) -> None:
        """Start to measure an epoch."""
        self.epoch = epoch
        self.epoch_start_time = time.monotonic()
        self.epoch_start_step = self.step
        self.last_time = self.epoch_start_time
        self.last_step = self.step

    def on_step(self, get_mean_loss: Callable[[], float]) -> None:
        """Count one step. `get_mean_loss` returns the mean loss of the epoch so far."""
        self.step += 1
        now = time.monotonic()
        if now - self.last_time < _INTERVAL_S:
            return
        seconds_per_step = (now - self.start_time) / (self.step - self.start_step)
        images = (self.step - self.last_step) * self.images_per_step
        event = StepProgress(
            epoch=self.epoch,
            step=self.step,
            fraction_done=self.step / self.total_steps,
            mean_loss=get_mean_loss(),
            images_per_s=images / (now - self.last_time),
            seconds_left=seconds_per_step * (self.total_steps - self.step),
        )
        self.last_time = now
        self.last_step = self.step
        self.emit(event)

    def end_epoch(self) -> float:
        """Return the images per second of the epoch's steps."""
        images = (self.step - self.epoch_start_step) * self.images_per_step
        return images / (time.monotonic() - self.epoch_start_time)
