"""Optimisers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from components.errors import UserError
from components.params import (
    AdamOptimizer,
    AdamWOptimizer,
    Recipe,
    RmsPropOptimizer,
    SgdOptimizer,
)
from components.training.parameter_groups import divide_parameters
from components.training.reducer import BATCH_NORM_TYPES


class MuonSGD(SGD):
    """SGD in which parameter groups with a key `orthogonal` follow Muon instead.

    `orthogonal` is the Nesterov momentum of the group, whose parameters are the weights of
    convolutions. The step of a convolution is its momentum made orthogonal, so that all of its
    directions are about equally long (https://kellerjordan.github.io/posts/muon). Before each step
    the weights are scaled to the norm sqrt(outputs). The batch norm after the convolution undoes
    the scaling; the learning rate remains the share of the weights that a step changes, and no
    weight decay is needed (https://github.com/KellerJordan/cifar10-airbench). torch.optim.Muon
    accepts matrices only and does not scale the weights.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if "orthogonal" in group:
                for weight in group["params"]:
                    self._orthogonalize_gradient(weight, group["orthogonal"])
        return super().step(closure)

    def _orthogonalize_gradient(self, weight: Tensor, momentum: float) -> None:
        """Replace the gradient by Muon's direction, which SGD then only has to add."""
        if weight.grad is None:
            return
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"].mul_(momentum).add_(weight.grad)
        weight.grad.copy_(orthogonalize(weight.grad.add(buffer, alpha=momentum)))
        weight.mul_(math.sqrt(len(weight)) / weight.norm())


def orthogonalize(filters: Tensor) -> Tensor:
    """Return `filters` with all singular values near 1, by three Newton-Schulz rounds.

    The filters `(outputs, inputs, h, w)` are taken as a matrix with one row per output. The quintic
    iteration of https://kellerjordan.github.io/posts/muon moves singular values that are not tiny
    to between 0.7 and 1.2. Zeros stay zeros.

    A round multiplies the matrix by a polynomial of its Gram matrix. The polynomials are multiplied
    with one another first, because for 3x3 filters the Gram matrix has a ninth of the columns: this
    is 1.7 times as fast for the `cnn` architecture.
    """
    rows = filters.movedim(1, -1).flatten(1)  # a view if the layout is channels-last
    is_tall = len(rows) > rows.shape[1]
    matrix = rows.T if is_tall else rows
    matrix = matrix / (matrix.norm() + 1e-7)
    gram = matrix @ matrix.T
    identity = 3.4445 * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    polynomials: list[Tensor] = []
    for _ in range(3):
        if polynomials:
            gram = polynomials[-1] @ gram @ polynomials[-1]
        polynomials.append(torch.addmm(identity - 4.7750 * gram, gram, gram, alpha=2.0315))
    # multi_dot chooses the order of multiplication that costs least.
    product: Tensor = torch.linalg.multi_dot([*polynomials, matrix])
    if is_tall:
        product = product.T
    return product.reshape(len(rows), *filters.shape[2:], -1).movedim(-1, 1)


def build_optimizer(model: nn.Module, recipe: Recipe, *, fused: bool = False) -> Optimizer:
    """Return the optimiser of `recipe`; with `recipe.muon`, convolutions follow Muon.

    Parameters of fewer than two dimensions (biases, norms) get neither weight decay
    (arXiv:1812.01187) nor L1 penalty. `fused` is for updates on a GPU that read the learning rate
    from the device: one kernel for all weights of a group, where torch has it, and no number on the
    CPU that changes with the steps.

    Raises:
        UserError: `recipe.muon` is set and the network has fewer batch norms than convolutions.
    """
    groups = _group_parameters(model, recipe)
    # A learning rate for every group is needed, and each has its own.
    options: dict[str, Any] = {"lr": recipe.learning_rate}
    # False would also switch off kernels over several tensors.
    on_device: dict[str, Any] = {"fused": fused or None, "capturable": fused}
    match recipe.optimizer:
        case SgdOptimizer(nesterov=nesterov):
            options |= {
                "momentum": recipe.momentum,
                "nesterov": nesterov and recipe.momentum > 0,
                "fused": fused or None,
            }
            return SGD(groups, **options) if recipe.muon is None else MuonSGD(groups, **options)
        case AdamOptimizer(betas=betas, epsilon=epsilon):
            return Adam(groups, betas=betas, eps=epsilon, **options, **on_device)
        case AdamWOptimizer(betas=betas, epsilon=epsilon):
            return AdamW(groups, betas=betas, eps=epsilon, **options, **on_device)
        case RmsPropOptimizer() as rmsprop:
            return RMSprop(
                groups,
                alpha=rmsprop.alpha,
                eps=rmsprop.epsilon,
                centered=rmsprop.centered,
                momentum=recipe.momentum,
                capturable=fused,
                **options,
            )


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict of `optimizer`, which keeps its own options of the device.

    A checkpoint from a GPU may continue on a CPU, where torch refuses `capturable`.
    """
    groups = [
        saved | {key: group[key] for key in ("fused", "capturable") if key in group}
        for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict(state | {"param_groups": groups})


def add_l1_gradient(optimizer: Optimizer) -> None:
    """Add the gradient of the L1 penalty to the weights of groups that have a key `l1_penalty`."""
    for group in optimizer.param_groups:
        if "l1_penalty" in group:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.grad.add_(weight.detach().sign(), alpha=group["l1_penalty"])


def _group_parameters(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return parameter groups: those that decay and the others, of each learning rate; then Muon's.

    Raises:
        UserError: `recipe.muon` is set and the network has fewer batch norms than convolutions.
    """

    def follows_muon(p: Tensor) -> bool:
        return recipe.muon is not None and p.ndim == 4

    penalties = {"weight_decay": recipe.weight_decay}
    if recipe.l1_penalty:
        penalties["l1_penalty"] = recipe.l1_penalty
    groups: list[dict[str, Any]] = []
    for part, learning_rate in divide_parameters(model, recipe):
        decayed = [p for p in part if p.ndim >= 2 and not follows_muon(p)]
        others = [p for p in part if p.ndim < 2]
        groups += [
            {"params": decayed, "lr": learning_rate, **penalties},
            {"params": others, "lr": learning_rate, "weight_decay": 0.0},
        ]
    if recipe.muon is not None:
        convolutions = [p for p in model.parameters() if follows_muon(p)]
        _check_batch_norms(model, recipe.architecture, len(convolutions))
        muon_group = {
            "params": convolutions,
            "lr": recipe.muon.learning_rate,
            "orthogonal": recipe.muon.momentum,
            "momentum": 0.0,
            "nesterov": False,
            "weight_decay": 0.0,
        }
        groups.append(muon_group)
    return groups


def _check_batch_norms(model: nn.Module, architecture: str, num_convolutions: int) -> None:
    num_batch_norms = sum(isinstance(m, BATCH_NORM_TYPES) for m in model.modules())
    if num_batch_norms < num_convolutions:
        raise UserError(
            f"train.models: {architecture} has {num_convolutions} convolutions and "
            f"{num_batch_norms} batch norms; muon sets the norm of convolutions' weights, for "
            "which a batch norm has to follow each: take muon out of the recipe"
        )
