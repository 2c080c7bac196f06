from __future__ import annotations

import pytest
from torch import nn

from components.training.optimizers import build_optimizer
from components.training.schedules import build_schedule
from tests.unit.training.cases import make_recipe


@pytest.mark.parametrize(
    ("epochs", "warmup", "steps"), [(10, 2, 5), (1, 0, 4), (1, 1, 1), (3, 3, 2), (2, 0.5, 7)]
)
def test_rate_warms_up_to_its_peak_and_falls_towards_zero(
    epochs: int, warmup: float, steps: int
) -> None:
    recipe = make_recipe(epochs=epochs, warmup_epochs=warmup, learning_rate=0.4)
    optimizer = build_optimizer(nn.Linear(2, 2), recipe)
    schedule = build_schedule(optimizer, recipe, steps)
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
    assert min(rates) > 0, "a step with a rate of zero changes nothing"
    assert schedule.get_last_lr()[0] == pytest.approx(0)


def test_rate_of_muon_is_proportional_to_the_rate_of_sgd() -> None:
    recipe = make_recipe(epochs=10, learning_rate=0.4, muon={"learning_rate": 0.05})
    optimizer = build_optimizer(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), recipe)
    schedule = build_schedule(optimizer, recipe, 5)
    for _ in range(50):
        rates = schedule.get_last_lr()
        assert rates[2] == pytest.approx(rates[0] / 8)
        optimizer.step()
        schedule.step()
