"""A callback that keeps checkpoints and stops a training."""

from __future__ import annotations

import io
import math
from typing import Any

import torch

from components.training.callback import NullCallback


class Recorder(NullCallback):
    """Keeps each checkpoint as a file of torch would, and requests a stop after some steps."""

    def __init__(self, *, every_step: bool = False, stop_after: float = math.inf) -> None:
        self.every_step = every_step
        self.stop_after = stop_after
        self.steps_begun = 0
        self.checkpoints: dict[int, dict[str, Any]] = {}

    def on_step_begin(self, step: int) -> None:  # noqa: ARG002
        self.steps_begun += 1

    def save_checkpoint(self, state: dict[str, Any], wait: bool) -> None:  # noqa: ARG002
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        self.checkpoints[state["step"]] = torch.load(buffer, weights_only=True)

    def checkpoint_due(self, step: int) -> bool:  # noqa: ARG002
        return self.every_step

    def stop_requested(self) -> bool:
        return self.steps_begun >= self.stop_after
