"""Parts of a benchmark theme, and the comparison of its metrics with targets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Round = Mapping[str, Mapping[str, float]]
"""Metrics of one run of every case: case -> metric -> value."""

Metric = Callable[[Round], float]
"""Computes a number from one round. Raises `KeyError(case)` when a case has no metrics in it."""

Condition = Callable[[Sequence[Round]], tuple[bool, str]]
"""Checks all rounds. Returns whether the condition holds, and a remark with the numbers."""


@dataclass(frozen=True)
class Settings:
    """Settings of one invocation, shared by its themes.

    `smoke` shrinks everything until a run only shows that each contender works. `scratch` is a
    folder of this invocation, deleted at its end. `rows` and `epochs` override a theme's own
    numbers.
    """

    repeats: int
    smoke: bool
    scratch: Path
    rows: int | None = None
    epochs: int | None = None
    network: str = "cnn"


@dataclass(frozen=True)
class Case:
    """A command that runs once per round, in a process of its own.

    `{result}` and `{round}` in its words are replaced by the path of the result file and by the
    round's number. The command writes a `CaseResult` as JSON to `{result}`; the harness adds
    `wall_s`. A case is skipped where one of `required_modules` cannot be imported.

    Two steps are not timed: `before`, called with the round's number before each run, and
    `score_command`, run after it, which prints `test_top1`.
    """

    name: str
    command: Sequence[str]
    required_modules: tuple[str, ...] = ()
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[int], None] | None = None
    timeout_s: float = 1200
    score_command: Sequence[str] = ()


@dataclass(frozen=True)
class CaseResult:
    """Result file of a contender: metrics by name, and lines of Markdown for the report."""

    values: dict[str, float]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """A bound for the median of `value` over the rounds.

    If there is a `condition`, the target is met only if it holds. For example, images per second
    count only at the same accuracy.
    """

    number: str
    text: str
    value: Metric
    bound: float
    at_least: bool = True
    condition: Condition | None = None


@dataclass(frozen=True)
class Theme:
    """One comparison: its cases, its targets and the text of its report.

    `metric` comes first in the table and is shown in the picture. `conditions` describe what all
    cases have in common. `unmeasured` lists targets that this theme cannot measure, each with the
    reason.
    """

    name: str
    title: str
    metric: str
    unit: str
    cases: list[Case]
    targets: list[Target]
    conditions: list[str]
    unmeasured: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Spread:
    """Median and range of a number over the rounds."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def from_values(cls, values: Iterable[float]) -> Spread:
        numbers = list(values)
        return cls(statistics.median(numbers), min(numbers), max(numbers), len(numbers))

    def format(self, digits: int = 3) -> str:
        """Return `median (low to high)` with this many significant digits."""

        def short(value: float) -> str:
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"

        return f"{short(self.median)} ({short(self.low)} to {short(self.high)})"


@dataclass(frozen=True)
class TargetResult:
    """A target compared with the measurements. `met` is None when it could not be measured."""

    target: Target
    spread: Spread | None
    met: bool | None
    remark: str


def evaluate_target(target: Target, rounds: Sequence[Round]) -> TargetResult:
    """Compare a target with the median of its value over the rounds.

    The value is computed within each round, whose cases ran shortly after one another. A round
    without a metric that the target needs (its contender was skipped or failed) does not count.
    """
    values = []
    missing = set()
    for results in rounds:
        try:
            values.append(target.value(results))
        except KeyError as error:
            missing.add(str(error.args[0]))
    names = ", ".join(sorted(missing))
    if not values:
        return TargetResult(target, None, None, f"nothing from {names or 'any round'}")
    spread = Spread.from_values(values)
    met = spread.median >= target.bound if target.at_least else spread.median <= target.bound
    remarks = [f"{len(rounds) - len(values)} rounds without {names}"] if missing else []
    if target.condition is not None:
        try:
            holds, remark = target.condition(rounds)
        except (KeyError, statistics.StatisticsError):
            return TargetResult(target, spread, None, "its condition could not be measured")
        met = met and holds
        remarks.append(remark)
    return TargetResult(target, spread, met, "; ".join(filter(None, remarks)))


def get_metric(results: Round, case: str, metric: str) -> float:
    """Return one metric of one round. Raises `KeyError` with the case's name if it is missing."""
    try:
        return results[case][metric]
    except KeyError:
        raise KeyError(case) from None


def metric_values(rounds: Sequence[Round], case: str, metric: str) -> list[float]:
    """Return one metric of all rounds that have it."""
    return [results[case][metric] for results in rounds if metric in results.get(case, {})]


def mean_metric(rounds: Sequence[Round], case: str, metric: str) -> float:
    """Return the mean over all rounds that have the metric. Raises `KeyError` if none has it."""
    values = metric_values(rounds, case, metric)
    if not values:
        raise KeyError(case)
    return statistics.fmean(values)


def ratio_to_best(case: str, peers: str | Sequence[str], metric: str) -> Metric:
    """Return the ratio of a case's metric to the largest of its peers', computed in each round.

    A round counts only if it has the metric of every peer.
    """
    names = [peers] if isinstance(peers, str) else list(peers)

    def value(results: Round) -> float:
        best = max(get_metric(results, name, metric) for name in names)
        return get_metric(results, case, metric) / best

    return value
