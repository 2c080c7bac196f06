"""Checks that the table sources (CSV, Parquet) share: columns, labels and splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import pandas as pd

from components.data.sources.base import (
    SPLITS,
    ImageEntries,
    ImageEntry,
    Refusal,
    is_printable,
    name_some,
)
from components.data.sources.folder_nodes import get_split
from components.errors import UserError

# Parameter -> usual names of such a column, without case and punctuation, the likeliest first.
_LIKELY_NAMES = {
    "path_column": "path filepath imagepath filename file image imagename imageid imagefile img "
    "imgpath imgname imgid name fname id idcode uuid isicid imageindex imagefilename photo picture",
    "label_column": "label labels class classname category target diagnosis dx species breed tag "
    "type y classid labelname categoryname findinglabels variety",
    "split_column": "split set subset partition dataset fold usage",
    "group_column": "group groupid patient patientid subject subjectid lesionid case camera site",
}
_MAX_COLUMNS_SHOWN = 20


def check_columns(location: str, columns: dict[str, str | None], available: Sequence[str]) -> None:
    """Check that a table has the configured columns.

    Args:
        location: Name of the table, for the message.
        columns: Parameter of `params.yaml` -> column name; None if not configured.
        available: Columns of the table.

    Raises:
        UserError: columns are missing; lists all of them, and those that are meant perhaps.
    """
    missing = {key: name for key, name in columns.items() if name and name not in available}
    if missing:
        raise UserError(describe_missing_columns(location, missing, available))


def find_column(names: Sequence[str], name: str) -> list[int]:
    """Return the positions of the columns of a name, or of its spelling in other letters."""
    name = name.strip()
    matches = [n for n, other in enumerate(names) if other == name]
    return matches or [n for n, other in enumerate(names) if other.casefold() == name.casefold()]


def describe_columns(names: Iterable[str]) -> str:
    """Return the names of the columns of a table for a message, up to twenty of them."""
    return name_some([name for name in names if name], _MAX_COLUMNS_SHOWN) or "none"


def describe_missing_columns(
    location: str, missing: dict[str, str], available: Sequence[str], otherwise: str = ""
) -> str:
    """Return the message for configured columns that a table lacks.

    Args:
        location: Name of the table.
        missing: Parameter of `params.yaml` -> column name.
        available: Columns of the table.
        otherwise: End of the message if no column is likely to be meant.
    """
    named = [f"{key} is {name!r}" for key, name in missing.items()]
    columns = describe_columns(available)
    message = f"{location} has no such column: {'; '.join(named)}; its columns: {columns}"
    likely = {
        key: names for key in missing if (names := _find_likely_columns(key, missing, available))
    }
    hints = [f"{key}: {' or '.join(names[:3])}" for key, names in likely.items()]
    if not hints:
        return message + otherwise
    return f"{message}. Perhaps, in preprocess.source: {', '.join(hints)}"


def _find_likely_columns(key: str, missing: dict[str, str], available: Sequence[str]) -> list[str]:
    """Return the columns that a parameter may mean: the same letters first, then usual names."""
    likely = [_simplify(missing[key]), *_LIKELY_NAMES.get(key, "").split()]
    ranks = {name: likely.index(_simplify(name)) for name in available if _simplify(name) in likely}
    return sorted(ranks, key=lambda name: ranks[name])


def _simplify(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def read_splits(location: str, values: pd.Series) -> pd.Series:
    """Return the split of each value of the split column, or an empty string.

    Other usual names and any case are accepted, such as `Training` and `valid`.

    Raises:
        UserError: a value is neither a split nor empty.
    """
    split_of = {value: get_split(value) if value.strip() else "" for value in values.unique()}
    unknown = sorted(value for value, split in split_of.items() if split is None)
    if unknown:
        raise UserError(
            f"{location}: {unknown[:5]} in the column of splits; "
            f"known: {', '.join(SPLITS)}, or empty to be drawn"
        )
    return values.map(split_of)


def sort_class_names(names: list[str]) -> list[str]:
    """Sort class names alphabetically, or by value if all of them are whole numbers."""
    numeric = all(name.isascii() and name.isdigit() and len(name) < 4000 for name in names)
    return sorted(names, key=int if numeric else str)


def separate_invalid(rows: Iterable[ImageEntry]) -> tuple[ImageEntries, list[Refusal]]:
    """Return the usable rows as entries, and a refusal for each other row.

    Refused are rows without a label, paths with two labels, splits or groups, and text that is not
    printable. Repetitions of a row are left out.

    Args:
        rows: Rows of one path must be adjacent.
    """
    entries = ImageEntries()
    refused: list[Refusal] = []
    for path, same_path in groupby(rows, lambda row: row.id):
        first, *others = same_path
        if not is_printable(path) or not is_printable(first.label):
            shown = ascii(path)[1:-1]
            refusal = Refusal(shown, "name", "the path or label is not printable text")
        elif not first.label.strip():
            refusal = Refusal(path, "no label")
        elif any(row != first for row in others):
            refusal = _refuse_contradiction([first, *others])
        else:
            entries.append(first)
            continue
        refused += [refusal] * (1 + len(others))
    return entries, refused


def _refuse_contradiction(rows: list[ImageEntry]) -> Refusal:
    """Return the refusal of a path whose rows differ."""
    for name in ("label", "split", "group"):
        values = sorted({getattr(row, name) for row in rows})
        if len(values) > 1:
            break
    listed = ", ".join(value or "(empty)" for value in values)
    return Refusal(rows[0].id, f"two {name}s", f"listed as {listed}")
