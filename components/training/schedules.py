"""Learning-rate schedules."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from components.params import Recipe


def build_schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LambdaLR:
    """Return a linear warm-up to the peak rate, followed by a half cosine; stepped per batch.

    The cosine would reach zero one step after the last.
    """
    total_steps = recipe.epochs * steps_per_epoch
    warmup_steps = min(round(recipe.warmup_epochs * steps_per_epoch), total_steps - 1)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        angle = math.pi * (step - warmup_steps) / (total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(angle))

    return LambdaLR(optimizer, factor)
