from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.errors import UserError
from components.training.optimizers import build_optimizer, orthogonalize
from tests.unit.training.cases import make_recipe


def make_model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_only_weights_of_two_or_more_dimensions_decay() -> None:
    optimizer = build_optimizer(make_model(), make_recipe(weight_decay=0.1))
    decayed, not_decayed = optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert [p.ndim for p in not_decayed["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], not_decayed["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("momentum", [0.9, 0])
def test_momentum_is_nesterovs(momentum: float) -> None:
    group = build_optimizer(make_model(), make_recipe(momentum=momentum)).param_groups[0]
    assert group["momentum"] == momentum
    assert group["nesterov"] == (momentum > 0)


@pytest.mark.parametrize(
    "shape", [(8, 4, 3, 3), (32, 1, 3, 3), (16, 16, 1, 1)], ids=["wide", "tall", "square"]
)
def test_orthogonalized_filters_keep_singular_vectors_and_have_values_near_one(
    shape: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    filters = torch.randn(shape)
    u, values, v = torch.linalg.svd(filters.flatten(1), full_matrices=False)
    result = orthogonalize(filters).flatten(1)
    new_values = torch.diag(u.T @ result @ v.T)
    torch.testing.assert_close(u @ torch.diag(new_values) @ v, result)
    not_tiny = values > 0.1 * values[0]
    assert not_tiny.sum() >= len(values) - 2
    assert 0.6 < new_values[not_tiny].min() <= new_values.max() < 1.3
    channels_last = filters.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(orthogonalize(channels_last).flatten(1), result)
    torch.testing.assert_close(orthogonalize(1e6 * filters).flatten(1), result)
    assert not orthogonalize(torch.zeros(shape)).any()


def test_muon_orthogonalizes_steps_of_convolutions_and_leaves_others_to_sgd() -> None:
    torch.manual_seed(1)
    gradients = [[torch.randn(p.shape) for p in make_model().parameters()] for _ in range(2)]

    def weights_over_two_steps(**values: Any) -> list[list[Tensor]]:
        torch.manual_seed(0)
        model = make_model()
        optimizer = build_optimizer(model, make_recipe(learning_rate=0.4, **values))
        weights = [[p.detach().clone() for p in model.parameters()]]
        for step in gradients:
            for p, gradient in zip(model.parameters(), step, strict=True):
                p.grad = gradient.clone()
            optimizer.step()
            weights.append([p.detach().clone() for p in model.parameters()])
        return weights

    sgd = weights_over_two_steps()
    muon = weights_over_two_steps(muon={"learning_rate": 0.05, "momentum": 0.5})
    for sgd_weights, muon_weights in zip(sgd, muon, strict=True):
        assert all(map(torch.equal, sgd_weights[1:], muon_weights[1:]))
    first = gradients[0][0]
    second = gradients[1][0]
    nesterov = (first * 1.5, second * 1.5 + first * 0.25)
    for before, after, direction in zip(muon, muon[1:], nesterov, strict=False):
        scaled = before[0] * 2 / before[0].norm()
        torch.testing.assert_close(after[0], scaled - 0.05 * orthogonalize(direction))


def test_muon_is_refused_for_a_convolution_without_batch_norm() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    with pytest.raises(UserError, match=r"2 convolutions and 1 batch norms.*take muon out"):
        build_optimizer(model, make_recipe(muon={"learning_rate": 0.05}))
