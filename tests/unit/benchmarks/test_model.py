"""Comparison of metrics with targets."""

from __future__ import annotations

import pytest

from benchmarks.model import Spread, Target, evaluate_target, ratio_to_best
from benchmarks.themes.throughput import as_accurate_as


def make_rounds(**rates: list[float]) -> list[dict[str, dict[str, float]]]:
    """Return rounds from the rates of each case, one per round."""
    count = len(next(iter(rates.values())))
    return [{case: {"rate": values[n]} for case, values in rates.items()} for n in range(count)]


TARGET = Target("2", "ours to the best peer", ratio_to_best("ours", ["a", "b"], "rate"), 2.0)


def test_ratio_is_computed_per_round_with_the_best_peer_of_that_round() -> None:
    # The machine becomes slower. The ratios within the rounds are 2.5, 2.0 and 3.0.
    rounds = make_rounds(ours=[50.0, 20.0, 9.0], a=[20.0, 4.0, 3.0], b=[10.0, 10.0, 1.0])
    result = evaluate_target(TARGET, rounds)
    assert result.spread == Spread(median=2.5, low=2.0, high=3.0, count=3)
    assert result.met


def test_an_outlier_does_not_meet_a_target_that_the_median_misses() -> None:
    rounds = make_rounds(ours=[19.0, 19.0, 90.0], a=[10.0] * 3, b=[1.0] * 3)
    assert evaluate_target(TARGET, rounds).met is False


def test_upper_bound_is_compared_with_the_median() -> None:
    target = Target("8", "seconds", lambda results: results["ours"]["rate"], 8.0, at_least=False)
    assert evaluate_target(target, make_rounds(ours=[7.0, 8.0, 20.0])).met
    assert evaluate_target(target, make_rounds(ours=[7.0, 8.1, 20.0])).met is False


def test_target_with_a_missing_peer_is_not_measured() -> None:
    result = evaluate_target(TARGET, make_rounds(ours=[50.0], a=[1.0]))
    assert result.met is None
    assert result.spread is None
    assert "nothing from b" in result.remark


def test_round_with_a_missing_metric_is_left_out_and_reported() -> None:
    rounds = make_rounds(ours=[50.0, 50.0], a=[20.0, 20.0], b=[10.0, 10.0])
    del rounds[1]["b"]
    result = evaluate_target(TARGET, rounds)
    assert result.spread is not None
    assert result.spread.count == 1
    assert "1 rounds without b" in result.remark


@pytest.mark.parametrize(("top1", "met"), [(0.899, True), (0.897, False)])
def test_faster_but_less_accurate_case_misses_the_target(top1: float, met: bool) -> None:
    target = Target(
        "2",
        "",
        ratio_to_best("ours", ["a"], "rate"),
        2.0,
        condition=as_accurate_as("ours", ["a", "b"]),
    )
    results = {
        "ours": {"rate": 30.0, "test_top1": top1},
        "a": {"rate": 10.0, "test_top1": 0.89},
        "b": {"rate": 9.0, "test_top1": 0.90},
    }
    result = evaluate_target(target, [results] * 3)
    assert result.met is met
    assert "best peer 90.00%" in result.remark
