"""What tables of images share: columns, labels and splits."""

from __future__ import annotations

import pandas as pd

from components.data.sources.base import SPLITS, Entries, Entry, Refusal, printable
from components.errors import UserError


def check_columns(where: str, wanted: dict[str, str | None], found: list[str]) -> None:
    """Raises `UserError` naming every column of `params.yaml` (key -> name) that is not there."""
    missing = [f"{key} is {name!r}" for key, name in wanted.items() if name is not None and name not in found]
    if missing:
        raise UserError(f"{where} has no such column: {'; '.join(missing)}; its columns: {', '.join(found)}")


def check_splits(where: str, values: pd.Series) -> None:
    wrong = sorted(set(values) - {*SPLITS, ""})
    if wrong:
        raise UserError(f"{where}: {wrong[:5]} in the column of splits; known: {', '.join(SPLITS)}, or empty to be drawn")


def in_order(labels: set[str]) -> list[str]:
    """Names in alphabetical order, numbers in that of their values."""
    return sorted(labels, key=int if all(label.isascii() and label.isdigit() for label in labels) else str)


def sorted_out(rows: list[Entry]) -> tuple[Entries, list[Refusal]]:
    """Entries as they can be used, and why the others cannot: no label, or one path with two labels or in two rows."""
    entries, refused = Entries(), list[Refusal]()
    label: dict[str, str] = {}
    several: dict[str, set[str]] = {}
    for row in rows:
        if (first := label.setdefault(row.id, row.label)) != row.label:
            several.setdefault(row.id, {first}).add(row.label)
    for row in rows:
        if not printable(row.id) or not printable(row.label):
            refused.append(Refusal(ascii(row.id)[1:-1], "name", "the path or label is not printable text"))
        elif not row.label.strip():
            refused.append(Refusal(row.id, "no label"))
        elif row.id in several:
            refused.append(Refusal(row.id, "two labels", f"listed as {', '.join(sorted(several[row.id]))}"))
        elif label.pop(row.id, None) is None:
            refused.append(Refusal(row.id, "listed twice"))
        else:
            entries.append(row)
    return entries, refused
