"""The one on-disk format: Parquet shards (`id`, `label`, `image`) and a manifest with their digests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.artifacts import Channels, Manifest, Shard, sha256_file
from components.data.images import Images
from components.errors import UserError

MANIFEST = "manifest.json"
_GROUP_MB = 8


def write_split(
    folder: Path,
    split: str,
    images: Images,
    classes: list[str],
    shard_mb: int,
    channels: Channels | None = None,
    origin: dict[str, str] | None = None,
) -> Manifest:
    """Writes one split that is in memory into `folder`. The same images give the same bytes."""
    writer = Writer(folder, split, images.pixels.shape[1:], classes, shard_mb)
    writer.add(images)
    return writer.finish(channels, origin)


class Writer:
    """Writes one split, given piece by piece, shard by shard: no more than one shard and one piece are in memory.

    The same images give the same bytes, whatever the pieces.
    """

    def __init__(self, folder: Path, split: str, shape: tuple[int, ...], classes: list[str], shard_mb: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.split, self.shape, self.classes = folder, split, shape, classes
        self.rows_per_shard = max(1, (shard_mb << 20) // math.prod(shape))
        self.shards: list[Shard] = []
        self.class_counts = np.zeros(len(classes), np.int64)
        self.pending: list[Images] = []
        self.waiting = 0

    def add(self, images: Images) -> None:
        start = 0
        while start < len(images):
            stop = min(len(images), start + self.rows_per_shard - self.waiting)
            self.pending.append(images.slice(start, stop))
            self.waiting += stop - start
            start = stop
            if self.waiting == self.rows_per_shard:
                self._flush()

    def finish(self, channels: Channels | None = None, origin: dict[str, str] | None = None) -> Manifest:
        if self.waiting:
            self._flush()
        height, width, depth = self.shape
        manifest = Manifest(
            split=self.split,
            origin=origin or {},
            shape=(height, width, depth),
            rows=int(self.class_counts.sum()),
            classes=self.classes,
            channels=channels,
            shards=self.shards,
            class_counts=self.class_counts.tolist(),
        )
        manifest.write(self.folder / MANIFEST)
        return manifest

    def _flush(self) -> None:
        images = self.pending[0] if len(self.pending) == 1 else Images.concatenate(self.pending)
        self.pending, self.waiting = [], 0
        size = math.prod(self.shape)
        table = pa.table(
            {
                "id": pa.array(images.ids, pa.string()),
                "label": pa.array(images.labels, pa.int32()),
                "image": pa.FixedSizeBinaryArray.from_buffers(
                    pa.binary(size), len(images), [None, pa.py_buffer(np.ascontiguousarray(images.pixels).reshape(-1))]
                ),
            }
        )
        path = self.folder / f"{len(self.shards):05d}.parquet"
        # Pixels hardly repeat: a dictionary would only cost time. zstd's fastest level keeps reading cheap. A row group of a
        # few MB is what a reader that streams takes at a time.
        rows = max(1, (_GROUP_MB << 20) // size)
        pq.write_table(table, path, compression="zstd", compression_level=1, use_dictionary=False, row_group_size=rows)
        self.shards.append(Shard(file=path.name, rows=table.num_rows, sha256=sha256_file(path)))
        self.class_counts += np.bincount(images.labels, minlength=len(self.classes))


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
    for images in read_shards(folder, manifest):
        stop = start + len(images)
        pixels[start:stop] = images.pixels
        labels.append(images.labels)
        ids += images.ids
        start = stop
    return Images(pixels, np.concatenate(labels), ids), manifest


def read_shards(folder: Path, manifest: Manifest) -> Iterator[Images]:
    """Reads one split a shard at a time, for whoever need not have it all at once. Raises as `read_split` does."""
    for shard in manifest.shards:
        path = folder / shard.file
        found = sha256_file(path) if path.is_file() else "no file"
        if found != shard.sha256:
            raise UserError(
                f"{path}: expected sha256 {shard.sha256}, found {found}; "
                "remove it from the workspace and from the DVC cache, then `dvc repro`"
            )
        table = pq.read_table(path, memory_map=False)
        parts = []
        for chunk in table["image"].chunks:
            size = chunk.type.byte_width
            flat = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * size, chunk.offset * size)
            parts.append(flat.reshape(len(chunk), *manifest.shape))
        pixels = parts[0] if len(parts) == 1 else np.concatenate(parts)
        yield Images(pixels, table["label"].to_numpy().astype(np.int64), table["id"].to_pylist())


def read_labels(folder: Path, manifest: Manifest) -> np.ndarray:
    """`int64 (N,)`, without the images."""
    columns = [pq.read_table(folder / shard.file, columns=["label"])["label"].to_numpy() for shard in manifest.shards]
    return np.concatenate(columns).astype(np.int64)


class ChannelCounts:
    """How often each value occurs in each channel, for statistics that are exact however the images come."""

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros((channels, 256), np.int64)

    def add(self, pixels: np.ndarray) -> None:
        """`uint8 (N, H, W, C)`."""
        for channel, counts in enumerate(self.counts):
            counts += np.bincount(pixels[..., channel].reshape(-1), minlength=256)

    def statistics(self) -> Channels:
        """Mean and standard deviation per channel."""
        values = np.arange(256, dtype=np.float64)
        mean = [float(counts @ values / counts.sum()) for counts in self.counts]
        std = [float(np.sqrt(counts @ (values - m) ** 2 / counts.sum())) for counts, m in zip(self.counts, mean, strict=True)]
        return Channels(mean=mean, std=std)
