"""The report of a GPU run: one Markdown page made of the results of all parts."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_run.parts import LIMITS_S
from benchmarks.gpu_run.results import read_results

HAND_WRITTEN = ("plain", "graph", "compile")
"""The implementations with whose best all others are compared."""
_HIDDEN = ("part", "name", "at_s")
_KERNEL_KEY = "ms_per_step"

Record = Mapping[str, Any]


def write_report(out: Path) -> None:
    """Write `out/report.md` from the results that are there. Parts without results are named."""
    sections = {
        "machine": ("Machine and ceilings", _format_generic),
        "right": ("Correctness", _format_checks),
        "steps": ("Training steps", _format_steps),
        "fashion": ("Fashion-MNIST", _format_generic),
        "ray_train": ("Under Ray Train", _format_checks),
        "profiling": ("Profiles of Kiln's step", _format_profiles),
    }
    assert sections.keys() == LIMITS_S.keys()
    lines = ["# Kiln on one GPU"]
    for part, (title, format_section) in sections.items():
        lines += ["", f"## {title}", ""]
        records = read_results(out, part)
        lines += format_section(records) if records else ["No results."]
    (out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _format_generic(records: Sequence[Record]) -> list[str]:
    """Return a table of one row per record."""
    return _table(["name", "values"], ([r["name"], _format_values(r)] for r in records))


def _format_checks(records: Sequence[Record]) -> list[str]:
    """Return a table of the checks, and the number of those that are right."""
    checked = sum("ok" in record or "error" in record for record in records)
    passed = sum(record.get("ok") is True for record in records)
    skipped = sum("skipped" in record for record in records)
    lines = [f"{passed} of {checked} right, {skipped} skipped.", ""]
    rows = []
    for record in records:
        verdict = _format_verdict(record)
        values = _format_values(record, hidden=("ok", "tolerance"))
        rows.append([record["name"], values, _format_value(record.get("tolerance", "")), verdict])
    return lines + _table(["check", "result", "tolerance", "right"], rows)


def _format_verdict(record: Record) -> str:
    if "error" in record:
        return "**ERROR**"
    if "skipped" in record:
        return "skipped"
    if "ok" in record:
        return "yes" if record["ok"] else "**NO**"
    return ""


def _format_steps(records: Sequence[Record]) -> list[str]:
    """Return a table for each case, with the ratio to the best implementation written by hand."""
    cases: dict[str, list[Record]] = defaultdict(list)
    others = []
    for record in records:
        if "implementation" in record:
            cases[record["name"]].append(record)
        else:
            others.append(record)
    lines = []
    for case, rows in cases.items():
        lines += [f"### {case}", "", *_format_case(rows), ""]
    if others:
        lines += ["### Errors and remarks", "", *_format_generic(others)]
    return lines


def _format_case(records: Sequence[Record]) -> list[str]:
    """Return the table of one case, the fastest implementation first."""
    rates = {r["implementation"]: r["images_per_s"] for r in records if "images_per_s" in r}
    best = max((rates[name] for name in HAND_WRITTEN if name in rates), default=None)
    rows = []
    for record in sorted(records, key=lambda r: -r.get("images_per_s", 0)):
        if "images_per_s" not in record:
            rows.append([record["implementation"], "", "", "", "", _format_values(record)])
            continue
        rate = record["images_per_s"]
        rows.append(
            [
                record["implementation"],
                f"{rate:,.0f}",
                f"{record['low']:,.0f} to {record['high']:,.0f}",
                f"{rate / best:.3f}" if best else "",
                f"{record['step_ms']:.3f}",
                _format_values(record, hidden=("images_per_s", "low", "high", "step_ms")),
            ]
        )
    header = ["", "images/s", "range", "of the best by hand", "ms a step", ""]
    return _table(header, rows)


def _format_profiles(records: Sequence[Record]) -> list[str]:
    """Return the values of each profile, and a table of its kernels."""
    lines = []
    for record in records:
        lines += [f"### {record['name']}", "", _format_values(record, hidden=(_KERNEL_KEY,)), ""]
        kernels = record.get(_KERNEL_KEY)
        if isinstance(kernels, dict):
            rows = ([f"`{name}`", f"{ms:.3f}"] for name, ms in kernels.items())
            lines += [*_table(["kernel", "ms a step"], rows), ""]
    return lines


def _format_values(record: Record, hidden: Iterable[str] = ()) -> str:
    """Return the values of a record but the `hidden` ones, as `key: value; key: value`."""
    omitted = {*_HIDDEN, "implementation", *hidden}
    return "; ".join(
        f"{key}: {_format_value(value)}" for key, value in record.items() if key not in omitted
    )


def _format_value(value: Any) -> str:
    match value:
        case bool() | str():
            return str(value)
        case float():
            return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
        case _:
            return json.dumps(value)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table of Markdown."""
    lines = [list(header), ["---"] * len(header), *map(list, rows)]
    return ["| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines]


def _escape(cell: str) -> str:
    """Return text that stays within its cell."""
    return cell.replace("|", "\\|").replace("\n", " ")
