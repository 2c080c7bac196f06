"""The one on-disk format: Parquet shards (`id`, `label`, `image`) and a manifest with their digests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.artifacts import Channels, Manifest, Shard, sha256_file
from components.data.images import Images
from components.errors import UserError

MANIFEST = "manifest.json"


def write_split(
    folder: Path,
    split: str,
    images: Images,
    classes: list[str],
    shard_mb: int,
    channels: Channels | None = None,
    origin: dict[str, str] | None = None,
) -> Manifest:
    """Writes one split into `folder`. The same images give the same bytes."""
    folder.mkdir(parents=True)
    height, width, depth = images.pixels.shape[1:]
    rows_per_shard = max(1, (shard_mb << 20) // (height * width * depth))
    shards = []
    for n, start in enumerate(range(0, len(images), rows_per_shard)):
        rows = slice(start, start + rows_per_shard)
        pixels = np.ascontiguousarray(images.pixels[rows]).reshape(-1)
        table = pa.table(
            {
                "id": pa.array(images.ids[rows], pa.string()),
                "label": pa.array(images.labels[rows], pa.int32()),
                "image": pa.FixedSizeBinaryArray.from_buffers(
                    pa.binary(height * width * depth), len(images.ids[rows]), [None, pa.py_buffer(pixels)]
                ),
            }
        )
        path = folder / f"{n:05d}.parquet"
        # Pixels hardly repeat: a dictionary would only cost time. zstd's fastest level keeps reading cheap.
        pq.write_table(table, path, compression="zstd", compression_level=1, use_dictionary=False)
        shards.append(Shard(file=path.name, rows=table.num_rows, sha256=sha256_file(path)))
    manifest = Manifest(
        split=split,
        origin=origin or {},
        shape=(height, width, depth),
        rows=len(images),
        classes=classes,
        channels=channels,
        shards=shards,
        class_counts=np.bincount(images.labels, minlength=len(classes)).tolist(),
    )
    manifest.write(folder / MANIFEST)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    return Manifest.read(folder / MANIFEST)


def read_split(folder: Path) -> tuple[Images, Manifest]:
    """Reads one split into memory and checks every shard's digest (DVC does not notice a damaged cache object).

    Raises:
        UserError: a shard is missing or altered; names it with both digests.
    """
    manifest = read_manifest(folder)
    pixels = np.empty((manifest.rows, *manifest.shape), np.uint8)
    labels, ids, start = [], [], 0
    for shard in manifest.shards:
        path = folder / shard.file
        found = sha256_file(path) if path.is_file() else "no file"
        if found != shard.sha256:
            raise UserError(
                f"{path}: expected sha256 {shard.sha256}, found {found}; "
                "remove it from the workspace and from the DVC cache, then `dvc repro`"
            )
        table = pq.read_table(path, memory_map=False)
        for chunk in table["image"].chunks:
            stop = start + len(chunk)
            size = chunk.type.byte_width
            flat = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * size, chunk.offset * size)
            pixels[start:stop] = flat.reshape(len(chunk), *manifest.shape)
            start = stop
        labels.append(table["label"].to_numpy())
        ids += table["id"].to_pylist()
    return Images(pixels, np.concatenate(labels).astype(np.int64), ids), manifest


def channel_statistics(pixels: np.ndarray) -> Channels:
    """Mean and standard deviation per channel of `uint8 (N, H, W, C)`, from exact integer counts of each value."""
    mean, std = [], []
    values = np.arange(256, dtype=np.float64)
    for channel in range(pixels.shape[3]):
        counts = np.bincount(pixels[..., channel].reshape(-1), minlength=256)
        mean.append(float(counts @ values / counts.sum()))
        std.append(float(np.sqrt(counts @ (values - mean[-1]) ** 2 / counts.sum())))
    return Channels(mean=mean, std=std)
