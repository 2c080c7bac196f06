"""Learning-rate range test: the rates, the losses and the rate that it suggests."""

from __future__ import annotations

import math

import pytest

from components.training.learning_rate_finder import HIGHEST, LOWEST, find_learning_rate
from tests.unit.training.cases import STEPS_PER_EPOCH, Recorder, make_config, train


def test_rates_rise_exponentially_until_the_loss_has_diverged() -> None:
    test = find_learning_rate(make_config(augment={}), steps=60)
    assert test.rates[0] == pytest.approx(LOWEST)
    factors = {round(b / a, 6) for a, b in zip(test.rates, test.rates[1:], strict=False)}
    assert len(factors) == 1
    assert len(test.rates) == len(test.losses) == len(test.smoothed)
    assert len(test.rates) > STEPS_PER_EPOCH, "it goes on into the next epoch"
    assert test.losses[0] == pytest.approx(math.log(3), abs=0.5), "of three classes"
    assert min(test.smoothed) < 0.8 * test.smoothed[0]


def test_suggested_rate_trains_well_and_is_below_the_best_and_the_highest() -> None:
    test = find_learning_rate(make_config(augment={}), steps=60)
    best = test.rates[test.smoothed.index(min(test.smoothed))]
    assert LOWEST < test.suggestion <= best <= 1.001 * HIGHEST
    outcome = train(learning_rate=test.suggestion)
    slow = train(learning_rate=test.suggestion / 1000)
    assert outcome.history[-1].val_loss < 0.5 * slow.history[-1].val_loss


def test_same_inputs_give_the_same_suggestion_and_no_checkpoint() -> None:
    recorder = Recorder()
    first = find_learning_rate(make_config(callback=recorder), steps=20)
    assert find_learning_rate(make_config(), steps=20) == first
    assert not recorder.checkpoints
    assert len(recorder.steps_begun) == len(first.losses)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_other_optimisers_are_tried_with_their_own_steps(optimizer: str) -> None:
    test = find_learning_rate(make_config(augment={}, optimizer=optimizer), steps=60)
    sgd = find_learning_rate(make_config(augment={}), steps=60)
    assert test.suggestion < sgd.suggestion
