"""A CSV file of paths and labels beside the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from components.data.sources.base import Entry, Refusal, Source
from components.data.sources.table import check_columns, check_splits, in_order, sorted_out
from components.data.sources.tree import Tree
from components.errors import UserError
from components.params import CsvSource


class CsvFile(Source):
    """Raises:
    UserError: the table is missing, malformed or empty, or lacks a column.
    """

    def __init__(self, tree: Tree, settings: CsvSource, max_file_mb: int) -> None:
        self.tree, self.limit, self.shareable = tree, max_file_mb << 20, tree.shareable
        s, where = settings, f"{settings.path}: {settings.table}"
        data = tree.read(s.table, 1 << 32)
        if isinstance(data, Refusal):
            raise UserError(f"{where} cannot be read: {data.detail or data.reason}; preprocess.source.table names the table")
        try:
            table = pd.read_csv(BytesIO(data), dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (ValueError, UnicodeError) as error:
            raise UserError(f"{where} is not a table in UTF-8: {error}") from None
        names = {key: getattr(s, key) for key in ("path_column", "label_column", "split_column", "group_column")}
        check_columns(where, names, list(table.columns))
        if table.empty:
            raise UserError(f"{where} has no rows")
        blank = pd.Series("", index=table.index)
        split = table[s.split_column].str.strip() if s.split_column else blank
        check_splits(where, split)
        columns = (table[s.path_column], table[s.label_column], split, table[s.group_column] if s.group_column else blank)
        rows = [Entry(path, label, split, group) for path, label, split, group in zip(*columns, strict=True)]
        self.entries, self.refused = sorted_out(sorted(rows))
        self.classes = in_order({*self.entries.labels.names})

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | np.ndarray | Refusal]:
        for entry in entries:
            path = PurePosixPath(entry.id)
            if path.is_absolute() or ".." in path.parts or "\\" in entry.id or not self.tree.holds(entry.id):
                yield Refusal(entry.id, "outside", "the path is absolute, or leads upwards or out of the folder")
            else:
                yield self.tree.read(str(path), self.limit)
