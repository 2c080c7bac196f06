"""The events that a training on Ray sends to its driver."""

from __future__ import annotations

from dataclasses import dataclass

from components.training.events import TrainingEvent


@dataclass(frozen=True)
class WorkersStarted:
    """A worker group has started, with `workers` workers."""

    workers: int


@dataclass(frozen=True)
class Heartbeat:
    """Training makes progress but has no other event to report."""


DriverEvent = TrainingEvent | WorkersStarted | Heartbeat
