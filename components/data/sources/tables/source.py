"""The `csv` source: a table of image paths and labels in the folder of the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.data.sources.base import ImageEntry, ImageSource, Refusal
from components.data.sources.files.tree import FileTree
from components.data.sources.tables.advice import describe_missing_files, find_lost_zeros
from components.data.sources.tables.checks import read_splits, separate_invalid, sort_class_names
from components.data.sources.tables.file import read_table
from components.data.sources.tables.labels import select_columns
from components.data.sources.tables.notes import describe_doubts
from components.data.sources.tables.paths import (
    NOT_FOUND,
    FileIndex,
    Resolution,
    normalize_paths,
    remove_prefix,
    resolve,
)
from components.errors import UserError
from components.params import CsvSource
from components.printable import escape_unprintable

_ROWS_PER_CHUNK = 50_000
_MAX_SHOWN = 3


class CsvImageSource(ImageSource):
    """Images that a table lists.

    Raises:
        UserError: the table is missing, malformed or empty, lacks a column, has ambiguous paths or
            labels, or most of its rows lead to no file or cannot be used.
    """

    def __init__(self, tree: FileTree, settings: CsvSource, max_file_mb: int) -> None:
        self.tree = tree
        self.max_file_bytes = max_file_mb << 20
        self.shareable = tree.shareable
        location = f"{settings.path}: {settings.table}"
        # Before the table is read: the list of files takes more memory than the index of it.
        files = FileIndex.from_files(tree.list_files().files)
        table = select_columns(read_table(tree, settings, location), settings, location)
        table["split"] = read_splits(location, table["split"])
        complete, incomplete = _separate_incomplete(table)
        _check_most_are_usable(len(complete), incomplete, location)
        notes = describe_doubts(complete["label"], complete["group"], location)
        paths = normalize_paths(complete["path"])
        _check_prefix(paths, settings, location)
        resolution = resolve(paths, files, settings.path_prefix, settings.image_folder)
        self._check_found(paths, complete.index, resolution, files, settings)
        rows = _sort_rows(complete, resolution, files)
        del table, complete, paths, resolution, files
        self.entries, contradicting = separate_invalid(_iter_entries(rows))
        self.refused = incomplete + contradicting
        _check_most_are_usable(len(self.entries), self.refused, location)
        repeated = len(rows) - len(self.entries) - len(contradicting)
        if repeated:
            notes.append(f"{location}: repeated rows that are left out: {repeated:,}")
        self.notes = notes
        self.classes = sort_class_names(self.entries.labels.categories)
        # Arrow keeps what it frees: more than the entries take.
        del rows
        pa.default_memory_pool().release_unused()

    def _check_found(
        self,
        paths: pa.Array,
        numbers: pd.Index,
        resolution: Resolution,
        files: FileIndex,
        settings: CsvSource,
    ) -> None:
        """Raise `UserError` if most paths lead to no file, or if numbers lost leading zeros."""
        missing = np.flatnonzero(resolution.files == NOT_FOUND)
        if not len(missing):
            return
        location = f"{settings.path}: {settings.table}"
        if lost := find_lost_zeros(resolution, files):
            shown = ", ".join(
                f"{paths[row].as_py()} (row {numbers[row]}; there is {name})"
                for row, name in lost[:_MAX_SHOWN]
            )
            raise UserError(
                f"{location}: {len(lost):,} of {len(paths):,} ids lost leading zeros: {shown}. "
                "Spreadsheets do that to numbers: format the column as text and fill it again"
            )
        if 2 * len(missing) <= len(paths) or self._can_read(resolution.tried, missing):
            return
        advice = describe_missing_files(paths, numbers, resolution, files, settings)
        raise UserError(
            f"{location}: {len(missing):,} of {len(paths):,} rows lead to no file; "
            f"{settings.path} holds {len(files):,} files. {advice}"
        )

    def _can_read(self, tried: pa.Array, rows: np.ndarray) -> bool:
        """Return True if files that are not listed can be read: links to folders are not listed."""
        entries = [ImageEntry(tried[row].as_py(), "") for row in rows[:_MAX_SHOWN].tolist()]
        return any(isinstance(content, bytes) for content in self.read(entries))

    def read(self, entries: Sequence[ImageEntry]) -> Iterator[bytes | np.ndarray | Refusal]:
        for entry in entries:
            path = PurePosixPath(entry.id)
            if path.is_absolute() or ".." in path.parts or not self.tree.contains(entry.id):
                yield Refusal(
                    entry.id,
                    "outside",
                    "the path is absolute, or leads upwards or out of the folder",
                )
            else:
                yield self.tree.read(str(path), self.max_file_bytes)


def _separate_incomplete(table: pd.DataFrame) -> tuple[pd.DataFrame, list[Refusal]]:
    """Return the rows with a path and exactly one label, and a refusal for each other row."""
    complete = ((table["path"] != "") & (table["label"] != "")).to_numpy()
    others = table[~complete]
    refused = []
    for number, path, several in zip(others.index, others["path"], others["several"], strict=True):
        shown = escape_unprintable(path)
        if not path:
            refused.append(Refusal(f"row {number}", "no path"))
        else:
            reason = "several labels" if several else "no label"
            refused.append(Refusal(shown, reason, f"row {number}{several}"))
    return table[complete] if refused else table, refused


def _check_most_are_usable(usable: int, refused: list[Refusal], location: str) -> None:
    """Raise `UserError` if most rows are refused; names the reasons, with rows of each."""
    if len(refused) <= usable:
        return
    lines = []
    for reason, count in Counter(refusal.reason for refusal in refused).most_common():
        examples = [refusal for refusal in refused if refusal.reason == reason][:_MAX_SHOWN]
        shown = ", ".join(
            f"{path} ({detail})" if detail else path for path, _, detail, _ in examples
        )
        lines.append(f"\n  {count:,} {reason}: {shown}")
    formulas = "; Excel stores the values of formulas when it saves the file"
    hint = formulas if location.endswith(".xlsx") and "no label" in lines[0] else ""
    raise UserError(
        f"{location}: {len(refused):,} of {usable + len(refused):,} rows cannot be used{hint}. "
        f"By reason, with the first of each:{''.join(lines)}"
    )


def _check_prefix(paths: pa.Array, settings: CsvSource, location: str) -> None:
    """Raise `UserError` if no path begins with the configured prefix."""
    if settings.path_prefix and remove_prefix(paths, settings.path_prefix).equals(paths):
        first = ", ".join(paths[:_MAX_SHOWN].to_pylist())
        raise UserError(
            f"{location}: no path begins with path_prefix ({settings.path_prefix}); "
            f"the first paths: {first}. Set preprocess.source.path_prefix to their beginning"
        )


def _sort_rows(table: pd.DataFrame, resolution: Resolution, files: FileIndex) -> pa.Table:
    """Return the rows as entries, sorted by path; rows without a file keep the path as written."""
    found = pa.array(resolution.files != NOT_FOUND)
    positions = pa.array(np.maximum(resolution.files, 0))
    ids = resolution.tried
    sizes = np.zeros(len(table), np.int64)
    if len(files):
        ids = pc.if_else(found, files.paths.take(positions), ids)
        sizes = np.where(found, files.sizes[positions], 0)
    rows = pa.table(
        {
            "id": ids,
            "label": pa.array(table["label"], pa.large_string()),
            "split": pa.array(table["split"], pa.large_string()),
            "group": pa.array(table["group"], pa.large_string()),
            "size": sizes,
        }
    )
    keys = [(name, "ascending") for name in ("id", "label", "split", "group")]
    return rows.take(pc.sort_indices(rows, keys))


def _iter_entries(rows: pa.Table) -> Iterator[ImageEntry]:
    for batch in rows.to_batches(_ROWS_PER_CHUNK):
        yield from map(ImageEntry, *(column.to_pylist() for column in batch.columns))
