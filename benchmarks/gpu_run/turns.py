"""Turns of several implementations, each a fixed number of steps that is timed as one."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field

import torch

from benchmarks.gpu_run.implementations import Implementation
from components.training.precision import synchronize


@dataclass(frozen=True)
class Schedule:
    """Numbers of steps and turns of each implementation.

    `probed_steps` are the steps after the warm-up from which the number of steps of a turn of
    `turn_s` is chosen.
    """

    warm_up_steps: int
    probed_steps: int
    rounds: int
    turn_s: float

    def count_steps(self, probed_s: float) -> int:
        """Return the steps of a turn, from the seconds of all probed steps."""
        return max(1, math.ceil(self.turn_s * self.probed_steps / probed_s))


FULL = Schedule(warm_up_steps=12, probed_steps=5, rounds=5, turn_s=0.25)
SMOKE = Schedule(warm_up_steps=1, probed_steps=1, rounds=2, turn_s=0.001)


@dataclass
class Turns:
    """Seconds of each turn of `count` steps, and the mean loss of the last."""

    count: int
    seconds: list[float] = field(default_factory=list)
    loss: float = math.nan
    first_step_s: float = math.nan

    def summarize(self, batch: int) -> dict[str, float | int]:
        """Return the median rate, its range and the loss, for a batch of this many images."""
        rates = [batch * self.count / seconds for seconds in self.seconds]
        median = statistics.median(rates)
        values = {
            "images_per_s": round(median, 1),
            "low": round(min(rates), 1),
            "high": round(max(rates), 1),
            "step_ms": round(1e3 * batch / median, 4),
            "rounds": len(rates),
            "steps_per_round": self.count,
            "loss": round(self.loss, 4),
        }
        if not math.isnan(self.first_step_s):
            values["first_step_s"] = round(self.first_step_s, 2)
        return values


class Runner:
    """An implementation with its turns."""

    def __init__(self, implementation: Implementation, device: torch.device) -> None:
        self.implementation = implementation
        self.device = device
        self.turns = Turns(count=1)

    def warm_up(self, schedule: Schedule) -> None:
        """Make the first steps, and choose the number of steps of a turn."""
        with self.implementation.settings(self.device):
            self.turns.first_step_s = self._time(1)
            self._time(schedule.warm_up_steps)
            self.turns.count = schedule.count_steps(self._time(schedule.probed_steps))

    def take_turn(self) -> None:
        """Make one turn and keep its seconds."""
        with self.implementation.settings(self.device):
            self.turns.seconds.append(self._time(self.turns.count))

    def _time(self, count: int) -> float:
        """Return the seconds of `count` steps, until the device has finished them."""
        synchronize(self.device)
        start = time.perf_counter()
        for _ in range(count):
            self.implementation.step()
        self.turns.loss = self.implementation.read_loss()
        synchronize(self.device)
        return time.perf_counter() - start
