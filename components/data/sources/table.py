"""Checks that the table sources (CSV, Parquet) share: columns, labels and splits."""

from __future__ import annotations

import pandas as pd

from components.data.sources.base import (
    SPLITS,
    ImageEntries,
    ImageEntry,
    Refusal,
    is_printable,
)
from components.errors import UserError


def check_columns(location: str, columns: dict[str, str | None], available: list[str]) -> None:
    """Check that a table has the configured columns.

    Args:
        location: Name of the table, for the message.
        columns: Parameter of `params.yaml` -> column name; None if not configured.
        available: Columns of the table.

    Raises:
        UserError: columns are missing; lists all of them.
    """
    missing = [
        f"{key} is {name!r}"
        for key, name in columns.items()
        if name is not None and name not in available
    ]
    if missing:
        raise UserError(
            f"{location} has no such column: {'; '.join(missing)}; "
            f"its columns: {', '.join(available)}"
        )


def check_splits(location: str, values: pd.Series) -> None:
    """Raise `UserError` if a value of the split column is neither a split nor empty."""
    unknown = sorted(set(values) - {*SPLITS, ""})
    if unknown:
        raise UserError(
            f"{location}: {unknown[:5]} in the column of splits; "
            f"known: {', '.join(SPLITS)}, or empty to be drawn"
        )


def sort_class_names(names: list[str]) -> list[str]:
    """Sort class names alphabetically, or by value if all of them are whole numbers."""
    numeric = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=int if numeric else str)


def separate_invalid(rows: list[ImageEntry]) -> tuple[ImageEntries, list[Refusal]]:
    """Return the usable rows as entries, and a refusal for each other row.

    Refused are rows without a label, paths with two labels, further rows of one path, and text that
    is not printable.
    """
    entries = ImageEntries()
    refused: list[Refusal] = []
    # Only paths with several labels get a set: a table may have millions of rows.
    first_labels: dict[str, str] = {}
    conflicts: dict[str, set[str]] = {}
    for row in rows:
        first_label = first_labels.setdefault(row.id, row.label)
        if first_label != row.label:
            conflicts.setdefault(row.id, {first_label}).add(row.label)
    for row in rows:
        if not is_printable(row.id) or not is_printable(row.label):
            path = ascii(row.id)[1:-1]
            refused.append(Refusal(path, "name", "the path or label is not printable text"))
        elif not row.label.strip():
            refused.append(Refusal(row.id, "no label"))
        elif row.id in conflicts:
            labels = ", ".join(sorted(conflicts[row.id]))
            refused.append(Refusal(row.id, "two labels", f"listed as {labels}"))
        elif row.id in first_labels:
            # Removed, so that the next row of this path is refused.
            del first_labels[row.id]
            entries.append(row)
        else:
            refused.append(Refusal(row.id, "listed twice"))
    return entries, refused
