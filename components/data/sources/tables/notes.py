"""Notes about the labels and groups of a table that are valid and may be not what was meant."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from components.data.sources.base import name_some

_PLACEHOLDERS = {"nan", "na", "<na>", "n/a", "#n/a", "nat", "null", "none", "?", "-"}
# Names of classes never have these. Others, such as a blank, separate labels if each part is one.
_SURE_SEPARATORS = ("|", ";")
_SEPARATORS = (*_SURE_SEPARATORS, ",", "/", "+", "&", " ")


def describe_doubts(labels: pd.Series, groups: pd.Series, location: str) -> list[str]:
    """Return notes about placeholders of missing values, and labels that are several in one.

    R writes `NA` for a missing value, Python code often `nan`; both may be names as well.

    Args:
        labels: Label of each row.
        groups: Group of each row, empty if there is none.
        location: Name of the table.
    """
    label_counts = labels.value_counts()
    group_counts = groups.value_counts()
    names = set(label_counts.index)
    notes = []
    if shown := _count_rows(label_counts, filter(_is_placeholder, names)):
        notes.append(
            f"{location}: labels that may mean a missing value are taken as classes: {shown}; "
            "empty the cells if these rows have no label"
        )
    if shown := _count_rows(label_counts, (name for name in names if _is_combined(name, names))):
        notes.append(
            f"{location}: labels that seem to be several in one are taken as classes of their own: "
            f"{shown}; remove the rows, or keep one label in each"
        )
    if shown := _count_rows(group_counts, filter(_is_placeholder, group_counts.index)):
        notes.append(
            f"{location}: groups that may mean a missing value are taken as one group each, which "
            f"goes into one split: {shown}; empty the cells if these rows have no group"
        )
    return notes


def _count_rows(counts: pd.Series, names: Iterable[str]) -> str:
    """Return names with the number of their rows, as a list for a message."""
    return name_some([f"{name!r} ({counts[name]:,} rows)" for name in sorted(names)])


def _is_placeholder(name: str) -> bool:
    return name.casefold() in _PLACEHOLDERS


def _is_combined(name: str, names: set[str]) -> bool:
    """Return True if a label consists of several labels with a separator between them."""
    for separator in _SEPARATORS:
        parts = {part.strip() for part in name.split(separator)} - {""}
        if len(parts) > 1 and (separator in _SURE_SEPARATORS or parts <= names):
            return True
    return False
