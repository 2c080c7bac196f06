"""Per-example predictions: the evidence behind a verdict, as Parquet (`id`, `label`, `prediction`, `probability`)."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def encode(ids: list[str], labels: np.ndarray, probability: np.ndarray) -> bytes:
    """Parquet of one row per example; `probability` is `float (N, K)`, kept as float32. Always the same bytes."""
    classes = probability.shape[1]
    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "label": pa.array(labels, pa.int32()),
            "prediction": pa.array(probability.argmax(axis=1), pa.int32()),
            "probability": pa.FixedSizeListArray.from_arrays(pa.array(probability.astype(np.float32).reshape(-1)), classes),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def correct(data: bytes) -> tuple[list[str], np.ndarray]:
    """The ids, in order, and which examples were predicted right, `bool (N,)`."""
    table = pq.read_table(io.BytesIO(data), columns=["id", "label", "prediction"])
    ids: list[str] = table["id"].to_pylist()
    return ids, table["label"].to_numpy() == table["prediction"].to_numpy()
