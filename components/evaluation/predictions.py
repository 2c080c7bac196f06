"""Predictions for each example: the evidence of a verdict, as a Parquet file.

The columns are `id`, `label`, `prediction` (class indices) and `probability` (one value per
class).
"""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


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


def decode_correctness(data: bytes) -> tuple[list[str], np.ndarray]:
    """Return the ids of the examples and a mask, `bool (N,)`, of the correctly predicted ones."""
    table = pq.read_table(io.BytesIO(data), columns=["id", "label", "prediction"])
    ids: list[str] = table["id"].to_pylist()
    return ids, table["label"].to_numpy() == table["prediction"].to_numpy()
