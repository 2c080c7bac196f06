"""Columns and labels of a table of images: names of columns, multi-hot labels, spelling."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pandas as pd

from components.data.sources.base import name_some
from components.data.sources.files.kinds import has_image_name
from components.data.sources.tables.checks import describe_missing_columns, find_column
from components.errors import UserError
from components.params import CsvSource

# Some programs write 1 with decimals, which a comma separates in some countries.
_ONE = r"1([.,]0*)?|true|yes|x"
_ZERO = r"(0([.,]0*)?|false|no)?"
_MAX_ROWS_SHOWN = 5


def select_columns(table: pd.DataFrame, settings: CsvSource, location: str) -> pd.DataFrame:
    """Return the columns path, label, split, group and several, without surrounding blanks.

    Split and group are empty if they are not configured. A row without exactly one label has an
    empty label; `several` names the labels if there are more. Rows that are empty in these columns
    or repeat their names are left out.

    Raises:
        UserError: a column is missing or ambiguous, a multi-hot column holds other values, or two
            labels differ in their spelling only.
    """
    positions = _find_configured_columns(table, settings, location)
    cells: dict[str, pd.Series] = {
        key: table.iloc[:, n].str.strip() for key, n in positions.items()
    }
    filled = _find_rows(cells, {key: str(table.columns[n]) for key, n in positions.items()})
    if not filled.any():
        raise UserError(f"{location} has no rows; one row per image is needed")
    if not filled.all():
        cells = {key: column.loc[filled] for key, column in cells.items()}
    blank = pd.Series("", index=cells["path_column"].index, dtype="str")
    if settings.label_columns:
        hot_cells = {
            str(table.columns[n]): cells[key]
            for key, n in positions.items()
            if key.startswith("label_columns")
        }
        labels, several = _read_multi_hot(pd.DataFrame(hot_cells), location)
    else:
        labels = cells["label_column"]
        several = blank
    check_spelling(labels.unique(), location)
    return pd.DataFrame(
        {
            "path": cells["path_column"],
            "label": labels,
            "split": cells.get("split_column", blank),
            "group": cells.get("group_column", blank),
            "several": several,
        }
    )


def _find_configured_columns(
    table: pd.DataFrame, settings: CsvSource, location: str
) -> dict[str, int]:
    """Return parameter -> position of its column; `label_columns[0]` and on for multi-hot ones."""
    columns: dict[str, str | None] = {
        "path_column": settings.path_column,
        "split_column": settings.split_column,
        "group_column": settings.group_column,
    }
    hot = settings.label_columns
    if not hot:
        columns["label_column"] = settings.label_column
    elif isinstance(hot, list):
        columns |= {f"label_columns[{n}]": name for n, name in enumerate(hot)}
    positions = _find_columns(table, columns, location)
    if hot == "auto":
        others = set(range(table.shape[1])) - set(positions.values())
        named = [position for position in sorted(others) if table.columns[position]]
        positions |= {f"label_columns[{n}]": position for n, position in enumerate(named)}
        _check_distinct([table.columns[position] for position in named], location)
        if len(named) < 2:
            raise UserError(f"{location}: label_columns: auto needs two columns of labels or more")
    return positions


def _find_rows(cells: dict[str, pd.Series], names: dict[str, str]) -> np.ndarray:
    """Return the mask of rows that are not empty, and not the header again, as in joined files."""
    filled: np.ndarray = np.logical_or.reduce(
        [(column != "").to_numpy() for column in cells.values()]
    )
    header: np.ndarray = np.logical_and.reduce(
        [(column == names[key]).to_numpy() for key, column in cells.items()]
    )
    filled &= ~header
    return filled


def _find_columns(
    table: pd.DataFrame, columns: dict[str, str | None], location: str
) -> dict[str, int]:
    """Return parameter -> position of its column."""
    names = [str(name) for name in table.columns]
    positions = {}
    missing = {}
    for key, name in columns.items():
        if name is None:
            continue
        matches = find_column(names, name)
        if len(matches) > 1:
            same = ", ".join(f"{names[n]!r}" for n in matches)
            raise UserError(
                f"{location}: {key} is {name!r}, which several columns are called: {same}; "
                "rename all but one"
            )
        if matches:
            positions[key] = matches[0]
        else:
            missing[key] = name
    if missing:
        raise UserError(_explain_missing(table, names, missing, location))
    by_position = {position: key for key, position in positions.items()}
    for key, position in positions.items():
        if (other := by_position[position]) != key:
            raise UserError(
                f"{location}: {key} and {other} are both {names[position]!r}; "
                "each needs a column of its own"
            )
    return positions


def _check_distinct(names: list[str], location: str) -> None:
    """Raise `UserError` if two columns of classes have one name."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(
            f"{location}: several columns are called {name_some(map(repr, repeated))}; "
            "with label_columns: auto each is a class: rename all but one"
        )


def _explain_missing(
    table: pd.DataFrame, names: list[str], missing: dict[str, str], location: str
) -> str:
    hints = []
    if len(names) == 1 and len(names[0].split()) > 1:
        hints.append("Commas, semicolons, tabs or bars separate columns, and blanks do not")
    if any(has_image_name(word) for name in names for word in name.split()):
        hints.append("The first row seems to be an image: insert a row of column names")
    elif {"images", "annotations"} <= set(names):
        hints.append("It seems to be in the COCO format: write a table with a row per image")
    elif "label_column" in missing and len(hot := _find_hot_columns(table, names)) > 1:
        shown = ", ".join(hot[:10]) + ", ..." * (len(hot) > 10)
        hints.append(
            f"{len(hot)} columns hold only 0 and 1: "
            f"if they are the classes, set preprocess.source.label_columns: [{shown}]"
        )
    otherwise = "" if hints else ". The names of the columns are needed above the rows"
    return ". ".join([describe_missing_columns(location, missing, names, otherwise), *hints])


def _find_hot_columns(table: pd.DataFrame, names: list[str]) -> list[str]:
    """Return the names of the columns whose first cells are 0 or 1."""
    head = table.head(1000)
    cells = [head.iloc[:, n].str.strip().str.lower() for n in range(len(names))]
    return [
        name
        for name, column in zip(names, cells, strict=True)
        if column.str.fullmatch(f"{_ONE}|{_ZERO}").all() and (column != "").any()
    ]


def _read_multi_hot(cells: pd.DataFrame, location: str) -> tuple[pd.Series, pd.Series]:
    """Return the label of each row, empty unless exactly one cell is 1, and the list of several."""
    hot = np.zeros(cells.shape, bool)
    for n, name in enumerate(cells):
        column = cells[name].str.lower()
        values = column.unique()
        wrong = sorted(value for value in values if not re.fullmatch(f"{_ONE}|{_ZERO}", value))
        if wrong:
            rows = column.index[column.isin(wrong)]
            raise UserError(
                f"{location}: column {name!r} of label_columns holds {name_some(wrong)} "
                f"(row {rows[0]}; {len(rows):,} rows); 0 and 1 are needed. "
                "List the columns of the classes in preprocess.source.label_columns"
            )
        hot[:, n] = column.isin([value for value in values if re.fullmatch(_ONE, value)])
    counts = hot.sum(axis=1)
    names = cells.columns.to_numpy(object)
    labels = pd.Series(names[hot.argmax(axis=1)], index=cells.index, dtype="str")
    labels[counts != 1] = ""
    several = np.full(len(cells), "", object)
    for row in np.flatnonzero(counts > 1).tolist():
        several[row] = ": " + ", ".join(names[hot[row]])
    return labels, pd.Series(several, index=cells.index, dtype="str")


def check_spelling(labels: Iterable[str], location: str) -> None:
    """Check that no two labels are one class in two spellings.

    Spellings differ in case, blanks or composition of characters ("cat" and "Cat"), or in the way
    that a whole number is written ("1", "1.0" and "01"). Single letters may differ in case, as in
    sets of handwriting.

    Raises:
        UserError: two labels do; names them.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        spellings[_get_spelling_key(label)].append(label)
    clashes = [sorted(names) for names in spellings.values() if len(names) > 1]
    if clashes:
        shown = name_some([" and ".join(map(repr, names)) for names in sorted(clashes)])
        raise UserError(
            f"{location}: labels that are probably one class in several spellings: {shown}; "
            "write each class in one way"
        )


def _get_spelling_key(label: str) -> str:
    text = unicodedata.normalize("NFKC", label)
    if re.fullmatch(r"[+-]?\d{1,4000}(\.0*)?", text):  # Python converts up to 4,300 digits
        return str(int(text.partition(".")[0]))
    return text if len(text) == 1 else " ".join(text.casefold().split())
