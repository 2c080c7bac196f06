"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from components.errors import UserError
from components.params import Recipe


class _Plain(SGD):
    """SGD as it is, without what torch wraps around its methods for torch.compile: importing that takes 0.9 s a worker."""

    step = torch.no_grad()(unwrap(SGD.step))


for _wrapped in (SGD.add_param_group, SGD.state_dict, SGD.load_state_dict):
    # Where torch's wrapper keeps what it made at its first call, for which it imports.
    setattr(unwrap(_wrapped), "__dynamo_disable", unwrap(_wrapped))


class _Muon(_Plain):
    """SGD, but for groups with `orthogonal`, a momentum: those of convolutions, which follow Muon.

    The step of a convolution is its Nesterov momentum made orthogonal, all of whose directions are about equally long
    (https://kellerjordan.github.io/posts/muon). Before it the weights get the norm sqrt(outputs): batch norm follows every
    convolution and undoes it, and the rate stays the share of the weights that a step changes, with nothing to decay
    (https://github.com/KellerJordan/cifar10-airbench). torch.optim.Muon takes matrices only and leaves norms as they are.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if "orthogonal" in group:
                for weight in group["params"]:
                    self._turn(weight, group["orthogonal"])
        return super().step(closure)

    def _turn(self, weight: Tensor, momentum: float) -> None:
        """Puts Muon's direction in the gradient's place; SGD then has no more to do than to add it."""
        if weight.grad is None:
            return
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"].mul_(momentum).add_(weight.grad)
        weight.grad = orthogonalize(weight.grad.add(buffer, alpha=momentum))
        weight.mul_(math.sqrt(len(weight)) / weight.norm())


def orthogonalize(filters: Tensor) -> Tensor:
    """`(outputs, inputs, h, w)`, taken as a matrix of one row per output, with singular values of about 1 each.

    Three rounds of the quintic Newton-Schulz iteration of https://kellerjordan.github.io/posts/muon, which takes what is not
    tiny to 0.7 to 1.2. A round multiplies the matrix by a polynomial of its Gram matrix; the polynomials are multiplied
    first, since that matrix is a ninth as wide as 3x3 filters are: 1.7 times as fast for the cnn. Zeros stay zeros.
    """
    rows = filters.movedim(1, -1).flatten(1)  # in channels-last layout there is nothing to copy
    tall = len(rows) > rows.shape[1]
    wide = rows.T if tall else rows
    wide = wide / (wide.norm() + 1e-7)
    gram, factors = wide @ wide.T, list[Tensor]()
    identity = 3.4445 * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    for _ in range(3):
        if factors:
            gram = factors[-1] @ gram @ factors[-1]
        factors.append(torch.addmm(identity - 4.7750 * gram, gram, gram, alpha=2.0315))
    wide = torch.linalg.multi_dot([*factors, wide])  # in the cheapest order
    found: Tensor = wide.T if tall else wide
    return found.reshape(len(rows), *filters.shape[2:], -1).movedim(-1, 1)


def build_optimizer(model: nn.Module, recipe: Recipe) -> SGD:
    """SGD with Nesterov momentum; biases and batch norm (fewer than two dimensions) are not decayed (arXiv:1812.01187).

    With `recipe.muon` convolutions are a group of their own, that follows Muon.

    Raises:
        UserError: Muon for a network that has fewer batch norms than convolutions.
    """

    def follows_muon(p: Tensor) -> bool:
        return recipe.muon is not None and p.ndim == 4

    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2 and not follows_muon(p)], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {"lr": recipe.learning_rate, "momentum": recipe.momentum, "nesterov": recipe.momentum > 0}
    if recipe.muon is None:
        return _Plain(groups, **options)
    turned = [p for p in parameters if follows_muon(p)]
    if (norms := sum(isinstance(m, _BatchNorm) for m in model.modules())) < len(turned):
        raise UserError(
            f"train.models: {recipe.architecture} has {len(turned)} convolutions and {norms} batch norms; muon sets the norm "
            "of convolutions' weights, for which a batch norm has to follow each: take muon out of the recipe"
        )
    own = {"lr": recipe.muon.learning_rate, "orthogonal": recipe.muon.momentum}
    groups.append({"params": turned, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0} | own)
    return _Muon(groups, **options)


def build_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> LambdaLR:
    """Linear warm-up to the peak, then a half cosine that would reach zero one step after the last; stepped per batch."""
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total - 1)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    return LambdaLR(optimizer, factor)
