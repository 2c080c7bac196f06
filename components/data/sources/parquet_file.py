"""The `parquet` source: Parquet files of encoded images or arrays, with their labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.sources.base import (
    ImageEntries,
    ImageEntry,
    ImageSource,
    Refusal,
    parse_row_number,
)
from components.data.sources.files.tree import refuse_large_file
from components.data.sources.tables.checks import (
    check_columns,
    read_splits,
    separate_invalid,
    sort_class_names,
)
from components.errors import UserError
from components.params import ParquetSource

_ROWS_PER_READ = 64


class ParquetImageSource(ImageSource):
    """Images in one Parquet file or in a folder of them. An image's id is `file/row`.

    If not `labelled`, only the column of the images is read, and labels are empty.

    Raises:
        UserError: no file, a file that is not Parquet, missing columns, or image columns that hold
            no images or differ in kind between the files.
    """

    def __init__(self, settings: ParquetSource, max_file_mb: int, *, labelled: bool = True) -> None:
        import fsspec

        self.settings = settings
        self.labelled = labelled
        self.max_file_bytes = max_file_mb << 20
        self.fs, root = fsspec.core.url_to_fs(settings.path)
        # Each process has its own `memory://`.
        self.shareable = "memory" not in self.fs.protocol
        self.paths = self._find_files(root)
        rows: list[ImageEntry] = []
        encoded: set[bool] = set()
        for name, path in self.paths.items():
            table, is_encoded = self._read_table(path)
            rows += self._to_entries(name, path, table)
            encoded.add(is_encoded)
        if len(encoded) > 1:
            raise UserError(
                f"{settings.path}: some files hold arrays and some encoded images; "
                "all must hold the same"
            )
        self.encoded = encoded.pop()
        if not labelled:
            self.entries, self.refused = ImageEntries(rows), []
            return
        self.entries, self.refused = separate_invalid(rows)
        self.classes = sort_class_names(self.entries.labels.categories)

    def _find_files(self, root: str) -> dict[str, str]:
        """Return name -> path of each file; names are relative to the configured folder."""
        if self.fs.isfile(root):
            return {root.rsplit("/", 1)[-1]: root}
        paths = sorted(self.fs.glob(f"{root}/**/*.parquet"))
        if not paths:
            raise UserError(
                f"preprocess.source.path: {self.settings.path} is no Parquet file "
                "and has none in it"
            )
        return {path[len(root) :].lstrip("/"): path for path in paths}

    def _read_table(self, path: str) -> tuple[pd.DataFrame, bool]:
        """Return the configured columns of a file, except the images, as strings.

        The second value is True if the images are encoded.
        """
        settings = self.settings
        columns: dict[str, str | None] = {
            "image_column": settings.image_column,
            "label_column": settings.label_column,
            "split_column": settings.split_column,
            "group_column": settings.group_column,
        }
        if not self.labelled:
            columns = {"image_column": settings.image_column}
        try:
            with self.fs.open(path, "rb") as file:
                parquet = pq.ParquetFile(file)
                check_columns(path, columns, parquet.schema_arrow.names)
                image_type = parquet.schema_arrow.field(settings.image_column).type
                encoded = _is_encoded(path, image_type)
                names = [name for key, name in columns.items() if name and key != "image_column"]
                table = parquet.read(list(dict.fromkeys(names))).to_pandas()
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} cannot be read as Parquet: {error}") from None
        return table.fillna("").astype(str), encoded

    def _to_entries(self, name: str, path: str, table: pd.DataFrame) -> Iterator[ImageEntry]:
        settings = self.settings
        blank = pd.Series("", index=table.index)
        splits = read_splits(path, table[settings.split_column]) if settings.split_column else blank
        groups = table[settings.group_column] if settings.group_column else blank
        labels = table[settings.label_column] if self.labelled else blank
        columns = zip(labels, splits, groups, strict=True)
        for row, (label, split, group) in enumerate(columns):
            yield ImageEntry(f"{name}/{row:08d}", label, split, group)

    def read(self, entries: Sequence[ImageEntry]) -> Iterator[bytes | np.ndarray | Refusal]:
        for name, group in groupby(entries, lambda entry: entry.id.rpartition("/")[0]):
            file_entries = list(group)
            rows = [parse_row_number(entry) for entry in file_entries]
            with self.fs.open(self.paths[name], "rb") as file:
                cells = _read_cells(pq.ParquetFile(file), self.settings.image_column, rows)
                for entry, cell in zip(file_entries, cells, strict=True):
                    yield self._to_content(entry.id, cell)

    def _to_content(self, name: str, cell: pa.Scalar) -> bytes | np.ndarray | Refusal:
        if not self.encoded:
            return _to_array(name, cell)
        data: bytes | None = (
            cell["bytes"].as_py() if pa.types.is_struct(cell.type) else cell.as_py()
        )
        if data is None:
            return Refusal(name, "empty", "no bytes")
        if len(data) > self.max_file_bytes:
            return refuse_large_file(name, len(data), self.max_file_bytes)
        return data


def _to_array(name: str, cell: pa.Scalar) -> np.ndarray | Refusal:
    """Return an image as `uint8 (H, W, C)`."""
    try:
        pixels = (
            cell.to_numpy()
            if isinstance(cell.type, pa.FixedShapeTensorType)
            else np.array(cell.as_py(), np.uint8)
        )
    except (ValueError, TypeError, OverflowError) as error:
        detail = f"its lists are no array of unsigned bytes: {error}"
        return Refusal(name, "not an image", detail)
    if pixels.ndim not in (2, 3) or not pixels.size:
        detail = f"an array of shape {pixels.shape}; (H, W) or (H, W, C) is needed"
        return Refusal(name, "not an image", detail)
    return pixels.reshape(*pixels.shape[:2], -1)


def _is_encoded(path: str, kind: pa.DataType) -> bool:
    """Return True if a column type holds image files, False if it holds arrays.

    Raises:
        UserError: it can hold neither.
    """
    types = pa.types
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return True
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return False
    if isinstance(kind, pa.FixedShapeTensorType) and kind.value_type == pa.uint8():
        return False
    raise UserError(
        f"{path}: the image column is {kind}; bytes, a struct with bytes, "
        "or lists of unsigned bytes are needed"
    )


def _read_cells(file: pq.ParquetFile, column: str, rows: list[int]) -> Iterator[pa.Scalar]:
    """Yield the cells of some rows, which must ascend.

    Only the row groups of these rows are read, and only a few rows at a time are in memory.
    """
    group = -1
    group_start = 0
    group_rows = 0
    batch_start = 0
    batches: Iterator[pa.RecordBatch] = iter(())
    batch: pa.RecordBatch | None = None
    for row in rows:
        while row >= group_start + group_rows:
            group += 1
            group_start += group_rows
            group_rows = file.metadata.row_group(group).num_rows
            batches = file.iter_batches(_ROWS_PER_READ, row_groups=[group], columns=[column])
            batch = None
            batch_start = group_start
        while batch is None or row >= batch_start + len(batch):
            batch_start += 0 if batch is None else len(batch)
            batch = next(batches)
        yield batch[column][row - batch_start]
