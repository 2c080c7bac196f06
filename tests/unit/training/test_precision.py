from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from components.training import precision

IMAGES = torch.randint(
    0, 256, (32, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LABELS = torch.arange(32) % 3


class LinearModel(nn.Module):
    """Adds `error` to its inputs under autocast, like a broken kernel for low precision."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)
        self.error = error

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1).float() / 255
        if torch.is_autocast_enabled("cpu"):
            x = x + self.error * torch.linspace(-1, 1, 64)
        return self.linear(x)


class Clock:
    """A clock on which fp32 takes a second and bfloat16 `1 / speedup` of a second."""

    def __init__(self, speedup: float) -> None:
        self.now = 0.0
        self.increments = [0.0, 1.0, 0.0, 1 / speedup]
        self.calls = 0

    def __call__(self) -> float:
        self.now += self.increments[self.calls % 4]
        self.calls += 1
        return self.now


@pytest.mark.parametrize(
    ("speedup", "expected"), [(3.0, "bf16"), (1.21, "bf16"), (1.19, "fp32"), (0.4, "fp32")]
)
def test_bf16_is_chosen_only_if_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, speedup: float, expected: str
) -> None:
    monkeypatch.setattr(precision.time, "perf_counter", Clock(speedup))
    torch.manual_seed(0)
    result = precision.probe(LinearModel(), IMAGES, LABELS)
    assert result.precision == expected
    assert result.speedup == pytest.approx(speedup)
    assert result.cosine > 0.999


@pytest.mark.parametrize("error", [30.0, float("nan")])
def test_bf16_with_other_gradients_is_never_chosen(
    monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    monkeypatch.setattr(precision.time, "perf_counter", Clock(10.0))
    torch.manual_seed(0)
    assert precision.probe(LinearModel(error), IMAGES, LABELS).precision == "fp32"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda rows: 0.004 * rows, [8, 8, 58, 58, 58]),
        (lambda _: 0.06, [8, 8, 31, 120, 256, 256, 256]),
        (lambda rows: max(0.06, 0.001 * rows), [8, 8, 31, 120, 120, 120]),
        (lambda rows: 0.02 * rows, [8, 8, 8, 8]),
        (lambda rows: 0.05 * rows, [8, 8, 8]),
        (lambda rows: 0.2 * rows, [8, 8, 8]),
    ],
    ids=["cpu", "gpu-launch-bound", "gpu", "slow-network", "large-network", "over-budget"],
)
def test_probe_uses_as_many_images_as_the_budget_allows(
    monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float], expected: list[int]
) -> None:
    rows: list[int] = []

    def run_round(_: nn.Module, images: Tensor, __: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
        rows.append(len(images))
        shares = torch.tensor([0.6, 0.4], dtype=torch.float64)
        return shares * seconds(len(images)), [[torch.ones(3)]] * 2

    monkeypatch.setattr(precision, "_run_round", run_round)
    result = precision.probe(LinearModel(), torch.zeros(256, 8, 8), torch.zeros(256))
    assert result.speedup == pytest.approx(1.5)
    assert rows == expected


def test_probe_does_not_change_the_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    precision.probe(model, IMAGES[:, None].float(), LABELS)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
