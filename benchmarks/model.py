"""What a theme is made of, and how its figures become ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Figures of one round: case -> metric -> value. A round is one run of every case.
Round = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Settings:
    """`smoke` shrinks everything until it only shows that each contender works. `scratch` is this invocation's own folder."""

    repeats: int
    smoke: bool
    scratch: Path
    rows: int | None = None
    epochs: int | None = None
    network: str = "cnn"


@dataclass(frozen=True)
class Case:
    """A command, run once per round in a process of its own. `{result}` and `{round}` in its words are replaced.

    It writes `{"values": {metric: number}, "notes": [text]}` to `{result}`; `wall_s` is added. `needs` are the importable
    modules without which it is skipped. Untimed: `before` each run, and `score` after it, a command that prints `test_top1`.
    """

    name: str
    command: Sequence[str]
    needs: tuple[str, ...] = ()
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[int], None] | None = None
    timeout_s: float = 1200
    score: Sequence[str] = ()


@dataclass(frozen=True)
class Target:
    """`value` of one round is compared with `bound` by the median over rounds. It raises `KeyError` where a contender that it
    needs gave no figure."""

    number: str
    text: str
    value: Callable[[Round], float]
    bound: float
    at_least: bool = True
    # What must hold besides, or the figure counts for nothing; by the mean over rounds.
    condition: Callable[[Sequence[Round]], tuple[bool, str]] | None = None


@dataclass(frozen=True)
class Theme:
    """`metric` is what the table and the picture show; `conditions` say what was held equal."""

    name: str
    title: str
    metric: str
    unit: str
    cases: list[Case]
    targets: list[Target]
    conditions: list[str]
    unmeasured: list[str] = field(default_factory=list)  # targets that nothing here measures, and why
    gpu: bool = False  # runs on one: its results bear the GPU's name


@dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = list(values)
        return cls(statistics.median(found), min(found), max(found), len(found))

    def text(self, digits: int = 3) -> str:
        def short(value: float) -> str:
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"

        return f"{short(self.median)} ({short(self.low)} to {short(self.high)})"


@dataclass(frozen=True)
class Judgement:
    target: Target
    spread: Spread | None
    met: bool | None  # None: not measured
    remark: str


def judge(target: Target, rounds: Sequence[Round]) -> Judgement:
    """Ratios are taken within rounds, whose parts ran one after the other, then their median. A round that lacks a figure
    (a contender was skipped or failed) does not count."""
    values, missing = [], set()
    for figures in rounds:
        try:
            values.append(target.value(figures))
        except KeyError as error:
            missing.add(str(error.args[0]))
    if not values:
        return Judgement(target, None, None, f"nothing from {', '.join(sorted(missing)) or 'any round'}")
    spread = Spread.of(values)
    met = spread.median >= target.bound if target.at_least else spread.median <= target.bound
    remark = f"{len(rounds) - len(values)} rounds without {', '.join(sorted(missing))}" if missing else ""
    if target.condition is not None:
        try:
            holds, what = target.condition(rounds)
        except (KeyError, statistics.StatisticsError):
            return Judgement(target, spread, None, "its condition could not be measured")
        met, remark = met and holds, "; ".join(filter(None, [remark, what]))
    return Judgement(target, spread, met, remark)


def figure(figures: Round, case: str, metric: str) -> float:
    """Raises `KeyError` with the case's name."""
    try:
        return figures[case][metric]
    except KeyError:
        raise KeyError(case) from None


def ratio(
    numerator: str, denominators: str | Sequence[str], metric: str, *, best: Callable[..., float] = max
) -> Callable[[Round], float]:
    """Of one case's metric to the best of some others', of all of which there must be figures."""
    names = [denominators] if isinstance(denominators, str) else list(denominators)

    def value(figures: Round) -> float:
        return figure(figures, numerator, metric) / best(figure(figures, name, metric) for name in names)

    return value


def mean(rounds: Sequence[Round], case: str, metric: str) -> float:
    found = [figures[case][metric] for figures in rounds if metric in figures.get(case, {})]
    if not found:
        raise KeyError(case)
    return statistics.fmean(found)
