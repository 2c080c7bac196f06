"""Parquet files of images and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.sources.base import Entry, Refusal, Source, number_of
from components.data.sources.table import check_columns, check_splits, in_order, sorted_out
from components.data.sources.tree import too_large
from components.errors import UserError
from components.params import ParquetSource

_BATCH = 64


class ParquetFile(Source):
    """Ids are `file/row`.

    Raises:
        UserError: no file, not Parquet, columns that lack, differ between the files or cannot be images.
    """

    def __init__(self, settings: ParquetSource, max_file_mb: int) -> None:
        import fsspec

        self.settings, self.limit, s = settings, max_file_mb << 20, settings
        self.fs, root = fsspec.core.url_to_fs(s.path)
        self.shareable = "memory" not in self.fs.protocol
        paths = [root] if self.fs.isfile(root) else sorted(self.fs.glob(f"{root}/**/*.parquet"))
        if not paths:
            raise UserError(f"preprocess.source.path: {s.path} is no Parquet file and has none in it")
        names = {key: getattr(s, key) for key in ("image_column", "label_column", "split_column", "group_column")}
        kinds, rows = set(), []
        self.paths: dict[str, str] = {}
        for path in paths:
            try:
                with self.fs.open(path, "rb") as file:
                    opened = pq.ParquetFile(file)
                    check_columns(path, names, opened.schema_arrow.names)
                    kinds.add(_is_encoded(path, opened.schema_arrow.field(s.image_column).type))
                    wanted = list(dict.fromkeys(name for key, name in names.items() if name and key != "image_column"))
                    table = opened.read(wanted).to_pandas().fillna("").astype(str)
            except (pa.ArrowInvalid, OSError) as error:
                raise UserError(f"{path} cannot be read as Parquet: {error}") from None
            name = path.rsplit("/", 1)[-1] if path == root else path[len(root) :].lstrip("/")
            self.paths[name] = path
            blank = pd.Series("", index=table.index)
            split = table[s.split_column] if s.split_column else blank
            check_splits(path, split)
            columns = (table[s.label_column], split, table[s.group_column] if s.group_column else blank)
            rows += [Entry(f"{name}/{n:08d}", *rest) for n, rest in enumerate(zip(*columns, strict=True))]
        if len(kinds) > 1:
            raise UserError(f"{s.path}: some files hold arrays and some encoded images; all must hold the same")
        self.encoded = kinds.pop()
        self.entries, self.refused = sorted_out(rows)
        self.classes = in_order({*self.entries.labels.names})

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | np.ndarray | Refusal]:
        for name, rows in groupby(entries, lambda entry: entry.id.rpartition("/")[0]):
            wanted = list(rows)
            with self.fs.open(self.paths[name], "rb") as file:
                cells = _cells(pq.ParquetFile(file), self.settings.image_column, [number_of(entry) for entry in wanted])
                for entry, cell in zip(wanted, cells, strict=True):
                    yield self._content(entry.id, cell)

    def _content(self, name: str, cell: pa.Scalar) -> bytes | np.ndarray | Refusal:
        if self.encoded:
            data = cell["bytes"].as_py() if pa.types.is_struct(cell.type) else cell.as_py()
            if data is None:
                return Refusal(name, "empty", "no bytes")
            return too_large(name, len(data), self.limit) if len(data) > self.limit else data
        try:
            pixels = cell.to_numpy() if isinstance(cell.type, pa.FixedShapeTensorType) else np.array(cell.as_py(), np.uint8)
        except (ValueError, TypeError, OverflowError) as error:
            return Refusal(name, "not an image", f"its lists are no array of unsigned bytes: {error}")
        if pixels.ndim not in (2, 3) or not pixels.size:
            return Refusal(name, "not an image", f"an array of shape {pixels.shape}; (H, W) or (H, W, C) is needed")
        return pixels.reshape(*pixels.shape[:2], -1)


def _is_encoded(path: str, kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return True
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return False
    if isinstance(kind, pa.FixedShapeTensorType) and kind.value_type == pa.uint8():
        return False
    raise UserError(f"{path}: the image column is {kind}; bytes, a struct with bytes, or lists of unsigned bytes are needed")


def _cells(file: pq.ParquetFile, column: str, wanted: list[int]) -> Iterator[pa.Scalar]:
    """The cells of rows, which ascend; of the file no more than the row groups in question, a few rows at a time."""
    group, start, rows = -1, 0, 0
    batches: Iterator[pa.RecordBatch] = iter(())
    batch: pa.RecordBatch | None = None
    first = 0
    for row in wanted:
        while row >= start + rows:
            group, start = group + 1, start + rows
            rows = file.metadata.row_group(group).num_rows
            batches, batch, first = file.iter_batches(_BATCH, row_groups=[group], columns=[column]), None, start
        while batch is None or row >= first + len(batch):
            first += 0 if batch is None else len(batch)
            batch = next(batches)
        yield batch[column][row - first]
