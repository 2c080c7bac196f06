"""The `csv` source: a table of image paths and labels in the folder of the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from components.data.sources.base import ImageEntry, ImageSource, Refusal
from components.data.sources.table import (
    check_columns,
    check_splits,
    separate_invalid,
    sort_class_names,
)
from components.data.sources.tree import FileTree
from components.errors import UserError
from components.params import CsvSource

_MAX_TABLE_BYTES = 1 << 32


class CsvImageSource(ImageSource):
    """Images that a CSV file lists.

    Raises:
        UserError: the table is missing, malformed or empty, or lacks a column.
    """

    def __init__(self, tree: FileTree, settings: CsvSource, max_file_mb: int) -> None:
        self.tree = tree
        self.max_file_bytes = max_file_mb << 20
        self.shareable = tree.shareable
        location = f"{settings.path}: {settings.table}"
        table = _read_table(tree, settings, location)
        blank = pd.Series("", index=table.index)
        split = table[settings.split_column].str.strip() if settings.split_column else blank
        check_splits(location, split)
        columns = (
            table[settings.path_column],
            table[settings.label_column],
            split,
            table[settings.group_column] if settings.group_column else blank,
        )
        rows = sorted(ImageEntry(*values) for values in zip(*columns, strict=True))
        self.entries, self.refused = separate_invalid(rows)
        self.classes = sort_class_names(self.entries.labels.categories)

    def read(self, entries: Sequence[ImageEntry]) -> Iterator[bytes | np.ndarray | Refusal]:
        for entry in entries:
            path = PurePosixPath(entry.id)
            if (
                path.is_absolute()
                or ".." in path.parts
                or "\\" in entry.id
                or not self.tree.contains(entry.id)
            ):
                yield Refusal(
                    entry.id,
                    "outside",
                    "the path is absolute, or leads upwards or out of the folder",
                )
            else:
                yield self.tree.read(str(path), self.max_file_bytes)


def _read_table(tree: FileTree, settings: CsvSource, location: str) -> pd.DataFrame:
    """Return the table with every column as strings.

    Raises:
        UserError: the table cannot be read, has no rows, or lacks a configured column.
    """
    content = tree.read(settings.table, _MAX_TABLE_BYTES)
    if isinstance(content, Refusal):
        raise UserError(
            f"{location} cannot be read: {content.detail or content.reason}; "
            "preprocess.source.table names the table"
        )
    try:
        table = pd.read_csv(
            BytesIO(content), dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except (ValueError, UnicodeError) as error:
        raise UserError(f"{location} is not a table in UTF-8: {error}") from None
    configured = {
        "path_column": settings.path_column,
        "label_column": settings.label_column,
        "split_column": settings.split_column,
        "group_column": settings.group_column,
    }
    check_columns(location, configured, list(table.columns))
    if table.empty:
        raise UserError(f"{location} has no rows")
    return table
