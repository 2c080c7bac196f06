"""The training loop's callbacks on Ray: one for rank 0, one for the other ranks."""

from __future__ import annotations

import time
from typing import Any

from components.orchestration.checkpoints import CheckpointWriter
from components.orchestration.event_channel import WorkerChannel
from components.orchestration.watchdog import Watchdog
from components.params import Checkpoint
from components.ray_session.private_api.train import preemption_pending
from components.training.callback import NullCallback
from components.training.events import TrainingEvent


class WorkerCallback(NullCallback):
    """Reports progress to the watchdog, and preemption notices to the loop."""

    def __init__(self, watchdog: Watchdog) -> None:
        self.watchdog = watchdog

    def on_progress(self) -> None:
        self.watchdog.reset()

    def preemption_pending(self) -> bool:
        return preemption_pending()


class Rank0Callback(WorkerCallback):
    """Also talks to the driver and writes checkpoints: the state is the same on every rank."""

    def __init__(
        self,
        watchdog: Watchdog,
        channel: WorkerChannel,
        writer: CheckpointWriter,
        interval: Checkpoint,
    ) -> None:
        super().__init__(watchdog)
        self.channel = channel
        self.writer = writer
        self.interval = interval
        self.saved_at = time.monotonic()
        self.saved_step = 0

    def on_event(self, event: TrainingEvent) -> None:
        self.channel.send(event)

    def on_progress(self) -> None:
        super().on_progress()
        self.channel.heartbeat()

    def save_checkpoint(self, state: dict[str, Any], wait: bool) -> None:
        self.saved_at = time.monotonic()
        self.saved_step = state["step"]
        self.writer.save(state, wait)

    def checkpoint_due(self, step: int) -> bool:
        seconds = self.interval.every_seconds
        steps = self.interval.every_steps
        by_time = seconds is not None and time.monotonic() - self.saved_at >= seconds
        by_steps = steps is not None and step - self.saved_step >= steps
        return by_time or by_steps

    def stop_requested(self) -> bool:
        return self.channel.stop_requested()
