"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from inspect import unwrap

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from components.params import Recipe


class _Plain(SGD):
    """SGD as it is, without what torch wraps around its methods for torch.compile: importing that takes 0.9 s a worker."""

    step = torch.no_grad()(unwrap(SGD.step))


for _wrapped in (SGD.add_param_group, SGD.state_dict, SGD.load_state_dict):
    # Where torch's wrapper keeps what it made at its first call, for which it imports.
    setattr(unwrap(_wrapped), "__dynamo_disable", unwrap(_wrapped))


def build_optimizer(model: nn.Module, recipe: Recipe) -> SGD:
    """SGD with Nesterov momentum; biases and batch norm (fewer than two dimensions) are not decayed (arXiv:1812.01187)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return _Plain(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0)


def build_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> LambdaLR:
    """Linear warm-up to the peak, then a half cosine that would reach zero one step after the last; stepped per batch."""
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total - 1)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    return LambdaLR(optimizer, factor)
