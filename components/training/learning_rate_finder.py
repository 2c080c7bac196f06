"""Learning-rate range test (arXiv:1506.01186, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch.optim.lr_scheduler import LambdaLR

from components.records.training import Epoch
from components.training.config import LoopConfig
from components.training.process_settings import prepare_process
from components.training.starting_model import prepare_model
from components.training.state import TrainState
from components.training.stepper import DivergedError, Stepper

LOWEST = 1e-6
HIGHEST = 10.0
DEFAULT_STEPS = 100
_SMOOTHING = 0.9
# The loss at which the test ends, as a multiple of the smallest one so far.
_DIVERGED = 4.0
_MIN_STEPS = 10


@dataclass(frozen=True)
class RangeTest:
    """Learning rates, and the loss of the training images at each.

    Attributes:
        rates: the rate of each step, rising.
        losses: mean loss per image (nats) of each step.
        smoothed: exponential moving average of the losses, without its bias towards zero.
        suggestion: the rate at which the smoothed loss falls fastest.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float


def find_learning_rate(config: LoopConfig, *, steps: int = DEFAULT_STEPS) -> RangeTest:
    """Train for some steps in fp32, with a rate that rises from `LOWEST` to `HIGHEST`.

    It rises exponentially. The recipe's other settings stay as they are; the rates of a backbone,
    of layers and of Muon rise in proportion. The test ends early, after ten steps at least, when
    the loss has risen to four times its minimum.
    `config.callback` is called as in a training, but gets no checkpoint.

    Raises:
        UserError: the loss is infinite within the first steps.
    """
    prepare_process(config.device)
    changes = {"ema_decay": None, "early_stopping": None, "freeze_epochs": 0}
    recipe = config.recipe.model_copy(update=changes)
    start = prepare_model(replace(config, recipe=recipe))
    config = start.config
    steps_per_epoch = math.ceil(len(config.train) / config.global_batch)
    state = TrainState(start.trained, recipe, steps_per_epoch, "fp32", cuda_graphs=False)
    state.schedule = LambdaLR(
        state.optimizer, lambda step: _rate(step, steps) / recipe.learning_rate
    )
    losses: list[float] = []
    smoothed: list[float] = []
    try:
        for loss in _train(config, state, steps):
            losses.append(loss)
            smoothed.append(_smooth(losses))
            if len(losses) >= _MIN_STEPS and loss > _DIVERGED * min(smoothed):
                break
    except DivergedError:
        if len(losses) < _MIN_STEPS:
            raise
    rates = [_rate(step, steps) for step in range(len(losses))]
    return RangeTest(rates, losses, smoothed, _suggest(rates, smoothed))


def _rate(step: int, steps: int) -> float:
    return LOWEST * math.exp(math.log(HIGHEST / LOWEST) * step / (steps - 1))


def _train(config: LoopConfig, state: TrainState, steps: int) -> Iterator[float]:
    """Yield the mean loss of each of so many steps; begin a new epoch where one ends."""
    stepper = Stepper(config, state)
    num_images = len(config.train)
    while state.step < steps:
        for n, totals in enumerate(stepper.train_epoch()):
            first = n * config.global_batch
            yield totals.loss / min(config.global_batch, num_images - first)
            if state.step >= steps:
                return
        state.history.epochs.append(_unvalidated(state))


def _unvalidated(state: TrainState) -> Epoch:
    """Return an epoch that only counts."""
    values = dict.fromkeys(("train_loss", "train_top1", "val_loss", "val_top1"), 0.0)
    return Epoch(epoch=state.epoch, step=state.step, learning_rate=state.learning_rate, **values)


def _smooth(losses: list[float]) -> float:
    weights = [_SMOOTHING**age for age in range(len(losses))]
    total = sum(weight * loss for weight, loss in zip(weights, reversed(losses), strict=True))
    return total / sum(weights)


def _suggest(rates: list[float], smoothed: list[float]) -> float:
    """Return the rate at which the smoothed loss falls fastest over the logarithm of the rate."""
    lowest = smoothed.index(min(smoothed))
    falls = [smoothed[n - 1] - smoothed[n + 1] for n in range(1, max(2, lowest))]
    return rates[1 + falls.index(max(falls))]
