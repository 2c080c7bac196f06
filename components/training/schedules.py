"""Learning-rate schedules."""

from __future__ import annotations

import math
from bisect import bisect_right

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from components.params import (
    ConstantSchedule,
    CosineSchedule,
    OneCycleSchedule,
    Recipe,
    StepSchedule,
)


def build_schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LambdaLR:
    """Return the schedule of `recipe`, stepped per batch, as factors of the groups' peak rates.

    Except for one cycle, a linear warm-up leads to the peak rate. The cosine would reach zero one
    step after the last.
    """
    total_steps = recipe.epochs * steps_per_epoch
    warmup_steps = min(round(recipe.warmup_epochs * steps_per_epoch), total_steps - 1)

    def factor(step: int) -> float:
        warmup = (step + 1) / (warmup_steps + 1) if step < warmup_steps else 1.0
        match recipe.schedule:
            case CosineSchedule():
                angle = math.pi * max(0, step - warmup_steps) / (total_steps - warmup_steps)
                return warmup * 0.5 * (1 + math.cos(angle))
            case OneCycleSchedule() as schedule:
                return _compute_one_cycle(step, schedule, total_steps)
            case StepSchedule() as schedule:
                count = _count_milestones(step, schedule, steps_per_epoch, total_steps)
                return warmup * schedule.gamma**count
            case ConstantSchedule():
                return warmup

    return LambdaLR(optimizer, factor)


def _compute_one_cycle(step: int, schedule: OneCycleSchedule, total_steps: int) -> float:
    """Return the factor of torch.optim.lr_scheduler.OneCycleLR with `anneal_strategy="cos"`.

    The peak may lie between two steps. Trainings that are too short for a rise begin at the peak.
    """
    first = 1 / schedule.div_factor
    last = first / schedule.final_div_factor
    peak_step = max(0.0, schedule.pct_start * total_steps - 1)
    if step < peak_step:
        return _anneal(first, 1.0, step / peak_step)
    if peak_step == total_steps - 1:
        return 1.0
    return _anneal(1.0, last, (step - peak_step) / (total_steps - 1 - peak_step))


def _anneal(start: float, end: float, progress: float) -> float:
    """Return the value of a half cosine from `start` to `end` after a fraction of the way."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


def _count_milestones(
    step: int, schedule: StepSchedule, steps_per_epoch: int, total_steps: int
) -> int:
    """Return how often the rate was multiplied before `step`."""
    if schedule.milestones:
        steps = [round(epochs * steps_per_epoch) for epochs in schedule.milestones]
        return bisect_right(steps, step)
    if schedule.every_epochs is not None:
        return step // max(1, round(schedule.every_epochs * steps_per_epoch))
    return step // math.ceil(total_steps / 3)
