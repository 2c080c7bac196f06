"""Optimisers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from components.errors import UserError
from components.params import Recipe
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


def build_optimizer(model: nn.Module, recipe: Recipe, *, fused: bool = False) -> SGD:
    """Return SGD with Nesterov momentum; with `recipe.muon`, convolutions follow Muon.

    Parameters of fewer than two dimensions (biases, batch norm) get no weight decay
    (arXiv:1812.01187). `fused` updates all weights of a group with one kernel, on a GPU.

    Raises:
        UserError: `recipe.muon` is set and the network has fewer batch norms than convolutions.
    """

    def follows_muon(p: Tensor) -> bool:
        return recipe.muon is not None and p.ndim == 4

    groups: list[dict[str, Any]] = []
    for part, learning_rate in divide_parameters(model, recipe):
        decayed = [p for p in part if p.ndim >= 2 and not follows_muon(p)]
        others = [p for p in part if p.ndim < 2]
        groups += [
            {"params": decayed, "lr": learning_rate, "weight_decay": recipe.weight_decay},
            {"params": others, "lr": learning_rate, "weight_decay": 0.0},
        ]
    options: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "momentum": recipe.momentum,
        "nesterov": recipe.momentum > 0,
        "fused": fused or None,  # False would also switch off kernels over several tensors
    }
    if recipe.muon is None:
        return SGD(groups, **options)
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
    return MuonSGD([*groups, muon_group], **options)


def _check_batch_norms(model: nn.Module, architecture: str, num_convolutions: int) -> None:
    num_batch_norms = sum(isinstance(m, BATCH_NORM_TYPES) for m in model.modules())
    if num_batch_norms < num_convolutions:
        raise UserError(
            f"train.models: {architecture} has {num_convolutions} convolutions and "
            f"{num_batch_norms} batch norms; muon sets the norm of convolutions' weights, for "
            "which a batch norm has to follow each: take muon out of the recipe"
        )
