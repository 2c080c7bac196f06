"""Predictions for each example: the evidence of a verdict, as a Parquet file.

The columns are `id`, `label`, `prediction` (class indices) and `probability` (one value per
class).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import UserError

_SUM_TOLERANCE = 1e-4


def encode_predictions(ids: list[str], labels: np.ndarray, probability: np.ndarray) -> bytes:
    """Return a Parquet file with one row per example.

    The same arguments give the same bytes. `labels` is `int64 (N,)`. `probability` is
    `float (N, K)` and is stored as float32.
    """
    classes = probability.shape[1]
    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "label": pa.array(labels, pa.int32()),
            "prediction": pa.array(probability.argmax(axis=1), pa.int32()),
            "probability": pa.FixedSizeListArray.from_arrays(
                pa.array(probability.astype(np.float32).reshape(-1)), classes
            ),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


@dataclass(frozen=True)
class Predictions:
    """The predictions of a split: `ids` of the N examples, `labels` `int64 (N,)` and
    `probability` `float64 (N, K)`."""

    ids: list[str]
    labels: np.ndarray
    probability: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Mask of the examples whose most probable class is their label, `bool (N,)`."""
        mask: np.ndarray = self.probability.argmax(axis=1) == self.labels
        return mask


def decode_predictions(data: bytes) -> Predictions:
    """Read a file of `encode_predictions`.

    Rows of probabilities, which were rounded to float32, sum to 1 again. The column `prediction`
    is not read: it could contradict the probabilities.

    Raises:
        UserError: The file is none of those.
    """
    try:
        table = pq.read_table(io.BytesIO(data), columns=["id", "label", "probability"])
        ids: list[str] = table["id"].to_pylist()
        labels = table["label"].to_numpy().astype(np.int64)
        flat = table["probability"].combine_chunks().flatten().to_numpy()
        probability = flat.reshape(len(ids), -1).astype(np.float64)
        sums = probability.sum(axis=1, keepdims=True)
        proper = (
            ((labels >= 0) & (labels < probability.shape[1])).all()
            and (probability >= 0).all()
            and (np.abs(sums - 1) < _SUM_TOLERANCE).all()
        )
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"a file of predictions cannot be read ({error}); evaluate the version again with "
            "`dvc repro -s -f evaluate`"
        ) from None
    if not proper:
        raise UserError(
            "a file of predictions has labels that are no class, or rows of probabilities that do "
            "not sum to 1; evaluate the version again with `dvc repro -s -f evaluate`"
        )
    return Predictions(ids, labels, probability / sums)
