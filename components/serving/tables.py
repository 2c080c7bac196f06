"""Files of predictions: CSV, JSON lines or Parquet, with a row per image."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.sources.base import Refusal
from components.errors import UserError
from components.serving.predictor import PredictedImage

Row = dict[str, str | float | None]


def name_columns(top_k: int) -> list[str]:
    """Return the columns: path, label, probability, those of the `top_k` classes, error."""
    top = [f"{kind}_{n}" for n in range(1, top_k + 1) for kind in ("label", "probability")]
    return ["path", "label", "probability", *(top if top_k > 1 else []), "error"]


def make_row(
    predicted: PredictedImage, classes: Sequence[str], top_k: int, threshold: float
) -> Row:
    """Return the row of one image.

    `label` is the most probable class, or None if its probability is below `threshold`. With a
    `top_k` above 1, `label_1` to `label_k` are the most probable classes in any case. Equally
    probable classes are in the order of the model's. Probabilities are rounded to float32, as the
    predictions of `evaluate` are.
    """
    if isinstance(predicted.result, Refusal):
        return make_refused_row(predicted.result, top_k)
    row: Row = dict.fromkeys(name_columns(top_k))
    row["path"] = predicted.id
    order = np.argsort(-predicted.result, kind="stable")[:top_k]
    best = predicted.result[order[0]]
    row["label"] = classes[order[0]] if best >= threshold else None
    row["probability"] = _round(best)
    if top_k > 1:
        for n, index in enumerate(order, 1):
            row[f"label_{n}"] = classes[index]
            row[f"probability_{n}"] = _round(predicted.result[index])
    return row


def make_refused_row(refusal: Refusal, top_k: int) -> Row:
    """Return the row of an image that was not predicted."""
    row: Row = dict.fromkeys(name_columns(top_k))
    row["path"] = refusal.path
    row["error"] = f"{refusal.reason}: {refusal.detail}" if refusal.detail else refusal.reason
    return row


def _round(probability: float) -> float:
    """Return the shortest number that is the same float32, such as 0.9 for 0.8999999761581421."""
    return float(str(np.float32(probability)))


class TableFile:
    """A file of predictions that is being written beside its final path.

    Raises:
        UserError: the extension is none that is written, or the file cannot be written.
    """

    def __init__(self, path: Path, top_k: int) -> None:
        make_writer = get_format(path)
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with self._explain_failure():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.writer = make_writer(self.temporary, name_columns(top_k))

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        with self._explain_failure():
            self.writer.write(rows)

    def close(self, complete: bool) -> None:
        """Move a complete file to its path; delete any other."""
        try:
            with self._explain_failure():
                self.writer.close()
                if complete:
                    self.temporary.replace(self.path)
        finally:
            self.temporary.unlink(missing_ok=True)

    @contextmanager
    def _explain_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--out {self.path} cannot be written: {reason}") from None


@contextmanager
def open_table(path: Path, top_k: int) -> Iterator[TableFile]:
    """Yield a file that replaces `path` when the block ends without an exception.

    Raises:
        UserError: as for `TableFile`.
    """
    table = TableFile(path, top_k)
    complete = False
    try:
        yield table
        complete = True
    finally:
        table.close(complete)


class CsvWriter:
    """CSV in UTF-8. A value that is missing is empty."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        self.file = path.open("w", encoding="utf-8", newline="")
        self.writer = csv.DictWriter(self.file, columns, lineterminator="\n")
        self.writer.writeheader()

    def write(self, rows: Sequence[Row]) -> None:
        self.writer.writerows(rows)

    def close(self) -> None:
        self.file.close()


class JsonWriter:
    """One JSON object per line. A value that is missing is null."""

    def __init__(self, path: Path, columns: list[str]) -> None:  # noqa: ARG002 (rows have them)
        self.file = path.open("w", encoding="utf-8")

    def write(self, rows: Sequence[Row]) -> None:
        self.file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def close(self) -> None:
        self.file.close()


class ParquetWriter:
    """Parquet with strings and float32. A value that is missing is null."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        types = {
            name: pa.float32() if name.startswith("probability") else pa.string()
            for name in columns
        }
        self.schema = pa.schema(types)
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd")

    def write(self, rows: Sequence[Row]) -> None:
        self.writer.write_table(pa.Table.from_pylist(list(rows), self.schema))

    def close(self) -> None:
        self.writer.close()


_FORMATS: dict[str, type[CsvWriter | JsonWriter | ParquetWriter]] = {
    ".csv": CsvWriter,
    ".jsonl": JsonWriter,
    ".parquet": ParquetWriter,
}


def get_format(path: Path) -> type[CsvWriter | JsonWriter | ParquetWriter]:
    """Return the writer for the extension of a path.

    Raises:
        UserError: the extension is none that is written, or the path is a folder.
    """
    if path.is_dir():
        raise UserError(f"--out {path} is a folder; give a file, such as {path / 'labels.csv'}")
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise UserError(
            f"--out {path}: its extension says what is written; give {', '.join(_FORMATS)}"
        ) from None
