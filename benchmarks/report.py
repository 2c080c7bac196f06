"""A theme's report: a Markdown page, a CSV of all numbers and a chart."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.harness import Measurements
from benchmarks.model import Spread, TargetResult, Theme, evaluate_target, metric_values
from components.files import write_bytes

MAX_IDLE_LOAD = 0.5
"""Load average of an idle machine. More than this comes from other processes."""


@dataclass(frozen=True)
class Context:
    """Circumstances of one run. `load` is the load average before the first case."""

    machine: dict[str, str]
    load: float
    time: datetime
    smoke: bool


def write(theme: Theme, measurements: Measurements, context: Context, stem: Path) -> list[Path]:
    """Write `stem.md`, `stem.csv` and `stem.png`, and return their paths."""
    page, table, chart = (Path(f"{stem}{suffix}") for suffix in (".md", ".csv", ".png"))
    write_bytes(page, format_page(theme, measurements, context, stem.name).encode())
    write_bytes(table, format_csv(measurements).encode())
    # Last, because the numbers must be kept even if the chart cannot be drawn.
    write_bytes(chart, draw_chart(theme, measurements))
    return [page, table, chart]


def evaluate_targets(theme: Theme, measurements: Measurements) -> list[TargetResult]:
    return [evaluate_target(target, measurements.rounds) for target in theme.targets]


def target_cells(result: TargetResult, smoke: bool) -> list[str]:
    """Return the target's row of a table: text, bound, measured spread, status."""
    target = result.target
    status = {True: "met", False: "MISSED", None: "NOT MEASURED"}[result.met]
    return [
        f"{target.number}. {target.text}",
        f"{'>=' if target.at_least else '<='} {target.bound:g}",
        result.spread.format() if result.spread else "-",
        "-" if smoke else status,
    ]


def format_page(theme: Theme, measurements: Measurements, context: Context, name: str) -> str:
    """Return the Markdown page. `name` is the stem of the CSV and the chart beside it."""
    lines = [f"# {theme.title}", "", *_format_warnings(context)]
    lines += ["| target | wanted | median (lowest to highest) | |", "|---|---|---|---|"]
    for result in evaluate_targets(theme, measurements):
        remark = f"; {result.remark}" if result.remark else ""
        lines.append(f"| {' | '.join(target_cells(result, context.smoke))}{remark} |")
    lines += [f"| {text} | | - | NOT MEASURED |" for text in theme.unmeasured]
    lines += ["", f"![{theme.unit}]({name}.png)", "", *_format_cases(theme, measurements), ""]
    lines += ["## Conditions", "", *(f"- {text}" for text in theme.conditions)]
    loads = measurements.loads
    lines += [
        f"- {len(measurements.rounds)} rounds, each of all cases one after the other, begun with "
        "another case each time; ratios are taken within rounds; every case in processes of its "
        "own",
        f"- load before the first case {context.load:.2f}; before cases {min(loads, default=0):.1f}"
        f" to {max(loads, default=0):.1f} (the case before counts for a minute)",
        f"- {context.time:%Y-%m-%d %H:%M} UTC; raw numbers: [{name}.csv]({name}.csv)",
    ]
    machine = [f"- {key}: {value}" for key, value in context.machine.items()]
    lines += ["", "## Machine", "", *machine, ""]
    notes = {case: notes for case, notes in measurements.notes.items() if notes}
    if notes:
        lines += ["## Notes of the last round", ""]
    for case, text in notes.items():
        lines += [f"### {case}", "", *text, ""]
    return "\n".join(lines)


def _format_warnings(context: Context) -> list[str]:
    lines = []
    if context.smoke:
        lines += [
            "**A smoke run: shows that every contender works. Its figures mean nothing.**",
            "",
        ]
    if context.load > MAX_IDLE_LOAD:
        lines += [
            f"**The machine was not quiet: load {context.load:.1f} before the first case. "
            "Do not quote these figures.**",
            "",
        ]
    return lines


def _format_cases(theme: Theme, measurements: Measurements) -> list[str]:
    """Return a table with a row per case and a column per metric, the theme's own first."""
    rounds = measurements.rounds
    names = dict.fromkeys(
        metric for results in rounds for values in results.values() for metric in values
    )
    metrics = sorted(names, key=lambda metric: (metric != theme.metric, metric == "wall_s"))
    lines = [f"| case | {' | '.join(metrics)} |", "|---|" + "---|" * len(metrics)]
    for case in theme.cases:
        cells = []
        if case.name in measurements.skipped:
            cells = [f"SKIPPED: {measurements.skipped[case.name]}", *[""] * (len(metrics) - 1)]
        else:
            for metric in metrics:
                values = metric_values(rounds, case.name, metric)
                cells.append(Spread.from_values(values).format(4) if values else "")
        lines.append(f"| {case.name} | {' | '.join(cells)} |")
    return lines + [f"\n{name} FAILED in {why}" for name, why in measurements.failed.items()]


def format_csv(measurements: Measurements) -> str:
    """Return every number: round, case, metric, value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["round", "case", "metric", "value"])
    for number, results in enumerate(measurements.rounds, 1):
        for case, values in results.items():
            rows = ([number, case, metric, repr(value)] for metric, value in values.items())
            writer.writerows(rows)
    return out.getvalue()


def draw_chart(theme: Theme, measurements: Measurements) -> bytes:
    """Return a PNG of the theme's metric: a bar for the median, a dot for every round."""
    from matplotlib.figure import Figure

    values = {
        case.name: metric_values(measurements.rounds, case.name, theme.metric)
        for case in reversed(theme.cases)
    }
    values = {name: numbers for name, numbers in values.items() if numbers}
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(values)), layout="constrained")
    axes = figure.subplots()
    for y, (name, numbers) in enumerate(values.items()):
        color = "tab:blue" if name.startswith("kiln") else "tab:gray"
        axes.barh(y, Spread.from_values(numbers).median, color=color)
        axes.plot(numbers, [y] * len(numbers), "k.", markersize=4)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_xlabel(theme.unit)
    axes.set_title(theme.title)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120, metadata={"Software": None})
    return out.getvalue()
