"""How figures become judgements."""

from __future__ import annotations

import pytest

from benchmarks.model import Target, judge, ratio
from benchmarks.themes.throughput import same_accuracy


def rounds(**rates: list[float]) -> list[dict[str, dict[str, float]]]:
    """Case -> its rate in each round."""
    return [{case: {"rate": values[n]} for case, values in rates.items()} for n in range(len(next(iter(rates.values()))))]


TARGET = Target("2", "ours to the best peer", ratio("ours", ["a", "b"], "rate"), 2.0)


def test_a_ratio_is_taken_within_each_round_and_against_the_best_peer_of_that_round() -> None:
    # Ours slows down with the machine: 2.5, 2.0 and 3.0 times the best of its own round, never of another.
    found = judge(TARGET, rounds(ours=[50.0, 20.0, 9.0], a=[20.0, 4.0, 3.0], b=[10.0, 10.0, 1.0]))
    assert found.spread is not None
    assert (found.spread.median, found.spread.low, found.spread.high, found.spread.count) == (2.5, 2.0, 3.0, 3)
    assert found.met


def test_the_median_decides_and_an_outlier_does_not() -> None:
    assert judge(TARGET, rounds(ours=[19.0, 19.0, 90.0], a=[10.0] * 3, b=[1.0] * 3)).met is False


def test_a_bound_from_above() -> None:
    target = Target("8", "seconds", lambda figures: figures["ours"]["rate"], 8.0, at_least=False)
    assert judge(target, rounds(ours=[7.0, 8.0, 20.0])).met
    assert judge(target, rounds(ours=[7.0, 8.1, 20.0])).met is False


def test_a_missing_peer_is_not_measured_rather_than_beaten() -> None:
    found = judge(TARGET, rounds(ours=[50.0], a=[1.0]))
    assert found.met is None
    assert found.spread is None
    assert "nothing from b" in found.remark


def test_a_round_without_a_figure_is_told() -> None:
    figures = rounds(ours=[50.0, 50.0], a=[20.0, 20.0], b=[10.0, 10.0])
    del figures[1]["b"]
    found = judge(TARGET, figures)
    assert found.spread is not None
    assert found.spread.count == 1
    assert "1 rounds without b" in found.remark


@pytest.mark.parametrize(("ours", "met"), [(0.899, True), (0.897, False)])
def test_a_faster_run_that_is_less_accurate_misses_its_target(ours: float, met: bool) -> None:
    target = Target("2", "", ratio("ours", ["a"], "rate"), 2.0, condition=same_accuracy("ours", ["a", "b"]))
    figures = [{case: {"rate": rate, "test_top1": top1} for case, rate, top1 in
                (("ours", 30.0, ours), ("a", 10.0, 0.89), ("b", 9.0, 0.90))}] * 3  # fmt: skip
    found = judge(target, figures)
    assert found.met is met
    assert "best peer 90.00%" in found.remark
