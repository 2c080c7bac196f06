"""A theme's figures as a page, a table of raw numbers and a picture."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from pathlib import Path

from benchmarks.harness import Measured
from benchmarks.model import Judgement, Spread, Theme, judge
from components.files import write_bytes

# A load (processes that want a core) above this when nothing of ours runs is somebody else's.
QUIET = 0.5


def judgements(theme: Theme, measured: Measured) -> list[Judgement]:
    return [judge(target, measured.rounds) for target in theme.targets]


def verdict(found: Judgement, smoke: bool) -> str:
    return "-" if smoke else {True: "met", False: "MISSED", None: "NOT MEASURED"}[found.met]


def write(
    theme: Theme, measured: Measured, facts: dict[str, str], load: float, stem: Path, when: datetime, smoke: bool
) -> list[Path]:
    """Writes `stem.md`, `stem.csv` and `stem.png`."""
    paths = [Path(f"{stem}{ending}") for ending in (".md", ".csv", ".png")]
    write_bytes(paths[0], page(theme, measured, facts, load, stem.name, when, smoke).encode())
    write_bytes(paths[1], raw(measured).encode())
    write_bytes(paths[2], picture(theme, measured))
    return paths


def page(theme: Theme, measured: Measured, facts: dict[str, str], load: float, name: str, when: datetime, smoke: bool) -> str:
    lines = [f"# {theme.title}", ""]
    if smoke:
        lines += ["**A smoke run: shows that every contender works. Its figures mean nothing.**", ""]
    if load > QUIET:
        lines += [f"**The machine was not quiet: load {load:.1f} before the first case. Do not quote these figures.**", ""]
    lines += ["| target | wanted | median (lowest to highest) | |", "|---|---|---|---|"]
    for found in judgements(theme, measured):
        target = found.target
        bound = f"{'>=' if target.at_least else '<='} {target.bound:g}"
        value = found.spread.text() if found.spread else "-"
        remark = f"; {found.remark}" if found.remark else ""
        lines.append(f"| {target.number}. {target.text} | {bound} | {value} | {verdict(found, smoke)}{remark} |")
    lines += [f"| {text} | | - | NOT MEASURED |" for text in theme.unmeasured]
    lines += ["", f"![{theme.unit}]({name}.png)", "", *_cases(theme, measured), ""]
    lines += ["## Conditions", "", *(f"- {text}" for text in theme.conditions)]
    lines += [
        f"- {len(measured.rounds)} rounds, each of all cases one after the other, begun with another case each time; ratios "
        "are taken within rounds; every case in processes of its own",
        f"- load before the first case {load:.2f}; before cases {min(measured.loads, default=0):.1f} to "
        f"{max(measured.loads, default=0):.1f} (the case before counts for a minute)",
        f"- {when:%Y-%m-%d %H:%M} UTC; raw numbers: [{name}.csv]({name}.csv)",
        "", "## Machine", "", *(f"- {key}: {value}" for key, value in facts.items()), "",
    ]  # fmt: skip
    noted = {case: notes for case, notes in measured.notes.items() if notes}
    if noted:
        lines += ["## Notes of the last round", ""]
        for case, notes in noted.items():
            lines += [f"### {case}", "", *notes, ""]
    return "\n".join(lines)


def _cases(theme: Theme, measured: Measured) -> list[str]:
    """One row per case, one column per metric, the theme's own first."""
    found = [metric for figures in measured.rounds for values in figures.values() for metric in values]
    metrics = sorted(dict.fromkeys(found), key=lambda metric: (metric != theme.metric, metric == "wall_s"))
    lines = [f"| case | {' | '.join(metrics)} |", "|---|" + "---|" * len(metrics)]
    for case in theme.cases:
        if case.name in measured.skipped:
            lines.append(f"| {case.name} | SKIPPED: {measured.skipped[case.name]} |" + " |" * (len(metrics) - 1))
            continue
        cells = []
        for metric in metrics:
            values = [figures[case.name][metric] for figures in measured.rounds if metric in figures.get(case.name, {})]
            cells.append(Spread.of(values).text(4) if values else "")
        lines.append(f"| {case.name} | {' | '.join(cells)} |")
    return lines + [f"\n{name} FAILED in {why}" for name, why in measured.failed.items()]


def raw(measured: Measured) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["round", "case", "metric", "value"])
    for number, figures in enumerate(measured.rounds, 1):
        for case, values in figures.items():
            writer.writerows([number, case, metric, repr(value)] for metric, value in values.items())
    return out.getvalue()


def picture(theme: Theme, measured: Measured) -> bytes:
    """Medians as bars, every round as a dot."""
    from matplotlib.figure import Figure

    rows = []
    for case in theme.cases:
        values = [figures[case.name][theme.metric] for figures in measured.rounds if theme.metric in figures.get(case.name, {})]
        if values:
            rows.append((case.name, values))
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, (name, values) in enumerate(reversed(rows)):
        axes.barh(y, Spread.of(values).median, color="tab:blue" if name.startswith("kiln") else "tab:gray")
        axes.plot(values, [y] * len(values), "k.", markersize=4)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set_xlabel(theme.unit)
    axes.set_title(theme.title)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120, metadata={"Software": None})
    return out.getvalue()
