from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.errors import UserError
from components.params import Recipe
from components.training import precision
from components.training.optimizers import build_optimizer, build_schedule, orthogonalize


def recipe(**values: Any) -> Recipe:
    return Recipe.model_validate({"architecture": "cnn", "epochs": 10, "learning_rate": 0.4, **values})


def test_only_weights_of_two_or_more_dimensions_decay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, kept = build_optimizer(model, recipe(weight_decay=0.1)).param_groups
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert [p.ndim for p in kept["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert decayed["nesterov"]
    assert not build_optimizer(model, recipe(momentum=0)).param_groups[0]["nesterov"]


@pytest.mark.parametrize(("epochs", "warmup", "steps"), [(10, 2, 5), (1, 0, 4), (1, 1, 1), (3, 3, 2), (2, 0.5, 7)])
def test_the_rate_warms_up_to_its_peak_and_falls_towards_zero(epochs: int, warmup: float, steps: int) -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), recipe(epochs=epochs, warmup_epochs=warmup))
    schedule = build_schedule(optimizer, recipe(epochs=epochs, warmup_epochs=warmup), steps)
    rates = []
    for _ in range(epochs * steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    peak = min(round(warmup * steps), epochs * steps - 1)
    assert rates.index(max(rates)) == peak
    assert max(rates) == pytest.approx(0.4)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert min(rates) > 0, "no step is wasted on a rate of zero"
    assert schedule.get_last_lr()[0] == pytest.approx(0)


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (32, 1, 3, 3), (16, 16, 1, 1)], ids=["wide", "tall", "square"])
def test_a_step_made_orthogonal_keeps_its_directions_and_gives_them_one_length(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    filters = torch.randn(shape)
    u, lengths, v = torch.linalg.svd(filters.flatten(1), full_matrices=False)
    found = orthogonalize(filters).flatten(1)
    along = torch.diag(u.T @ found @ v.T)
    torch.testing.assert_close(u @ torch.diag(along) @ v, found)
    wanted = lengths > 0.1 * lengths[0]
    assert wanted.sum() >= len(lengths) - 2
    assert 0.6 < along[wanted].min() <= along.max() < 1.3
    torch.testing.assert_close(orthogonalize(filters.contiguous(memory_format=torch.channels_last)).flatten(1), found)
    torch.testing.assert_close(orthogonalize(1e6 * filters).flatten(1), found)
    assert not orthogonalize(torch.zeros(shape)).any()


def test_with_muon_convolutions_make_orthogonal_steps_and_all_else_those_of_sgd() -> None:
    def steps(**values: Any) -> list[list[Tensor]]:
        """Weights before and after each of two steps on gradients that are given."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
        optimizer = build_optimizer(model, recipe(**values))
        seen = [[p.detach().clone() for p in model.parameters()]]
        for given in gradients:
            for p, gradient in zip(model.parameters(), given, strict=True):
                p.grad = gradient.clone()
            optimizer.step()
            seen.append([p.detach().clone() for p in model.parameters()])
        return seen

    torch.manual_seed(1)
    shapes = [(4, 3, 3, 3), (4,), (4,), (4,), (2, 4), (2,)]
    gradients = [[torch.randn(shape) for shape in shapes] for _ in range(2)]
    plain, muon = steps(), steps(muon={"learning_rate": 0.05, "momentum": 0.5})
    assert all(torch.equal(a, b) for old, new in zip(plain, muon, strict=True) for a, b in zip(old[1:], new[1:], strict=True))
    first, second = (given[0] for given in gradients)
    for before, after, momentum in zip(muon, muon[1:], (first * 1.5, second * 1.5 + first * 0.25), strict=False):
        scaled = before[0] * 2 / before[0].norm()
        torch.testing.assert_close(after[0], scaled - 0.05 * orthogonalize(momentum))


def test_muon_is_refused_where_batch_norm_does_not_follow() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    with pytest.raises(UserError, match=r"2 convolutions and 1 batch norms.*take muon out"):
        build_optimizer(model, recipe(muon={"learning_rate": 0.05}))


def test_the_rate_of_muon_has_the_shape_of_the_other() -> None:
    values = recipe(muon={"learning_rate": 0.05})
    optimizer = build_optimizer(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), values)
    schedule = build_schedule(optimizer, values, 5)
    for _ in range(50):
        rates = schedule.get_last_lr()
        assert rates[2] == pytest.approx(rates[0] / 8)
        optimizer.step()
        schedule.step()


class Net(nn.Module):
    """Adds `error` to what it computes whenever it runs under autocast: a broken low-precision kernel."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.linear, self.error = nn.Linear(64, 3), error

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1).float() / 255
        if torch.is_autocast_enabled("cpu"):
            x = x + self.error * torch.linspace(-1, 1, 64)
        return self.linear(x)


BATCH = torch.randint(0, 256, (32, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 3


class Clock:
    """A stopwatch on which bfloat16 takes `1 / speedup` of fp32's second."""

    def __init__(self, speedup: float) -> None:
        self.now, self.steps = 0.0, [0.0, 1.0, 0.0, 1 / speedup]
        self.calls = 0

    def __call__(self) -> float:
        self.now += self.steps[self.calls % 4]
        self.calls += 1
        return self.now


@pytest.mark.parametrize(("speedup", "expected"), [(3.0, "bf16"), (1.21, "bf16"), (1.19, "fp32"), (0.4, "fp32")])
def test_bfloat16_is_chosen_only_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, speedup: float, expected: str
) -> None:
    monkeypatch.setattr(precision.time, "perf_counter", Clock(speedup))
    torch.manual_seed(0)
    found = precision.probe(Net(), BATCH, LABELS)
    assert found.precision == expected
    assert found.speedup == pytest.approx(speedup)
    assert found.cosine > 0.999


@pytest.mark.parametrize("error", [30.0, float("nan")])
def test_bfloat16_that_disagrees_is_never_chosen(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    monkeypatch.setattr(precision.time, "perf_counter", Clock(10.0))
    torch.manual_seed(0)
    assert precision.probe(Net(error), BATCH, LABELS).precision == "fp32"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda rows: 0.004 * rows, [8, 8, 58, 58, 58]),  # a processor: time goes with the images
        (lambda _: 0.06, [8, 8, 31, 120, 256, 256, 256]),  # a GPU: what launching takes
        (lambda rows: max(0.06, 0.001 * rows), [8, 8, 31, 120, 120, 120]),
        (lambda rows: 0.02 * rows, [8, 8, 8, 8]),
        (lambda rows: 0.05 * rows, [8, 8, 8]),  # a large network
        (lambda rows: 0.2 * rows, [8, 8, 8]),
    ],
)
def test_the_probe_takes_as_many_images_as_its_time_allows(
    monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float], expected: list[int]
) -> None:
    looks: list[int] = []

    def look(_: nn.Module, images: Tensor, __: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
        looks.append(len(images))
        return torch.tensor([0.6, 0.4], dtype=torch.float64) * seconds(len(images)), [[torch.ones(3)]] * 2

    monkeypatch.setattr(precision, "_round", look)
    assert precision.probe(Net(), torch.zeros(256, 8, 8), torch.zeros(256)).speedup == pytest.approx(1.5)
    assert looks == expected


def test_the_probe_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    precision.probe(model, BATCH[:, None].float(), LABELS)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


_WITHOUT_COMPILER = """
import sys, torch
from torch import nn
from components.params import Recipe
from components.training.optimizers import build_optimizer

recipe = Recipe(architecture="cnn", epochs=1, learning_rate=0.1)

def train(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = make(model)
    for _ in range(3):
        model.zero_grad()
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    return [p.detach() for p in model.parameters()]

ours = train(lambda model: build_optimizer(model, recipe))
assert "torch._dynamo" not in sys.modules
torchs = train(lambda model: torch.optim.SGD(build_optimizer(model, recipe).param_groups))
assert all(map(torch.equal, ours, torchs))
"""


def test_the_optimizer_is_torchs_without_its_compiler() -> None:
    subprocess.run([sys.executable, "-c", _WITHOUT_COMPILER], check=True)
