"""The on-disk format of a split: Parquet shards and a manifest with their SHA-256 digests.

The columns of a shard are `id` (string), `label` (int32) and `image` (the pixels as fixed-size
binary).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.format.images import Images
from components.errors import UserError
from components.files import sha256_file
from components.records.splits import Channels, Manifest, Preparation, Shard

MANIFEST = "manifest.json"
_ROW_GROUP_MB = 8


def write_split(
    folder: Path,
    split: str,
    images: Images,
    classes: list[str],
    shard_mb: int,
    channels: Channels | None = None,
    origin: dict[str, str] | None = None,
) -> Manifest:
    """Write a split that is in memory into the new folder `folder`.

    The same images give the same bytes.
    """
    writer = SplitWriter(folder, split, images.pixels.shape[1:], classes, shard_mb)
    writer.add(images)
    return writer.finish(channels, origin)


class SplitWriter:
    """Write one split in parts, into the new folder `folder`.

    At most one row group (`rows_per_group` images) and one part are in memory. The same images
    give the same bytes, however they are divided into parts. `shape` is `(H, W, C)` and
    `shard_mb` the largest size of a shard before compression, in MiB.
    """

    def __init__(
        self, folder: Path, split: str, shape: tuple[int, ...], classes: list[str], shard_mb: int
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.split = split
        self.shape = shape
        self.classes = classes
        size = math.prod(shape)
        self.rows_per_shard = max(1, (shard_mb << 20) // size)
        # A streaming reader has one row group in memory at a time.
        self.rows_per_group = min(self.rows_per_shard, max(1, (_ROW_GROUP_MB << 20) // size))
        self.schema = pa.schema({"id": pa.string(), "label": pa.int32(), "image": pa.binary(size)})
        self.shards: list[Shard] = []
        self.class_counts = np.zeros(len(classes), np.int64)
        self.pending: list[Images] = []
        self.pending_rows = 0
        self.file: pq.ParquetWriter | None = None
        self.rows_in_file = 0

    def add(self, images: Images) -> None:
        """Append images and write every row group that they complete."""
        start = 0
        while start < len(images):
            stop = min(len(images), start + self._group_size() - self.pending_rows)
            self.pending.append(images.slice(start, stop))
            self.pending_rows += stop - start
            start = stop
            if self.pending_rows == self._group_size():
                self._write_group()

    def _group_size(self) -> int:
        """Return the number of rows that the current row group will have when it is full."""
        return min(self.rows_per_group, self.rows_per_shard - self.rows_in_file)

    def finish(
        self,
        channels: Channels | None = None,
        origin: dict[str, str] | None = None,
        preparation: Preparation | None = None,
    ) -> Manifest:
        """Write the remaining images and the manifest, and return the manifest.

        Args:
            channels: statistics of the training split.
            origin: name and SHA-256 digest of each input that the split was made from.
            preparation: how the images of the training split were made of pictures.
        """
        if self.pending_rows:
            self._write_group()
        self._close_shard()
        height, width, depth = self.shape
        manifest = Manifest(
            split=self.split,
            origin=origin or {},
            shape=(height, width, depth),
            rows=int(self.class_counts.sum()),
            classes=self.classes,
            channels=channels,
            preparation=preparation,
            shards=self.shards,
            class_counts=self.class_counts.tolist(),
        )
        manifest.write(self.folder / MANIFEST)
        return manifest

    def _write_group(self) -> None:
        images = self.pending[0] if len(self.pending) == 1 else Images.concatenate(self.pending)
        self.pending = []
        self.pending_rows = 0
        flat = pa.py_buffer(np.ascontiguousarray(images.pixels).reshape(-1))
        pixels = pa.FixedSizeBinaryArray.from_buffers(
            self.schema.field("image").type, len(images), [None, flat]
        )
        table = pa.table(
            [pa.array(images.ids, pa.string()), pa.array(images.labels, pa.int32()), pixels],
            self.schema,
        )
        if self.file is None:
            # Images rarely repeat, so a dictionary would only cost time. zstd's fastest level
            # keeps reading cheap.
            self.file = pq.ParquetWriter(
                self._path(),
                self.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=False,
            )
        self.file.write_table(table, row_group_size=len(images))
        self.rows_in_file += len(images)
        self.class_counts += np.bincount(images.labels, minlength=len(self.classes))
        if self.rows_in_file == self.rows_per_shard:
            self._close_shard()

    def _path(self) -> Path:
        return self.folder / f"{len(self.shards):05d}.parquet"

    def _close_shard(self) -> None:
        if self.file is not None:
            self.file.close()
            path = self._path()
            self.shards.append(
                Shard(file=path.name, rows=self.rows_in_file, sha256=sha256_file(path))
            )
            self.file = None
            self.rows_in_file = 0


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the split in `folder`."""
    return Manifest.read(folder / MANIFEST)


def read_split(folder: Path) -> tuple[Images, Manifest]:
    """Read one split into memory and check the digest of every shard.

    The digests are checked because DVC does not notice a damaged object in its cache.

    Raises:
        UserError: a shard is missing or altered; the message names it with both digests.
    """
    manifest = read_manifest(folder)
    pixels = np.empty((manifest.rows, *manifest.shape), np.uint8)
    labels: list[np.ndarray] = []
    ids: list[str] = []
    start = 0
    for images in read_row_groups(folder, manifest):
        stop = start + len(images)
        pixels[start:stop] = images.pixels
        labels.append(images.labels)
        ids += images.ids
        start = stop
    return Images(pixels, np.concatenate(labels), ids), manifest


def read_row_groups(
    folder: Path, manifest: Manifest, shards: slice = slice(None)
) -> Iterator[Images]:
    """Read one split, or a range of its shards, one row group (a few megabytes) at a time.

    Raises:
        UserError: a shard is missing or altered, as in `read_split`.
    """
    for shard in manifest.shards[shards]:
        path = folder / shard.file
        digest = sha256_file(path) if path.is_file() else "no file"
        if digest != shard.sha256:
            raise UserError(
                f"{path}: expected sha256 {shard.sha256}, found {digest}; "
                "remove it from the workspace and from the DVC cache, then `dvc repro`"
            )
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group).combine_chunks()
                column = table["image"].chunk(0)
                size = column.type.byte_width
                flat = np.frombuffer(
                    column.buffers()[1], np.uint8, len(column) * size, column.offset * size
                )
                yield Images(
                    flat.reshape(len(column), *manifest.shape),
                    table["label"].to_numpy().astype(np.int64),
                    table["id"].to_pylist(),
                )


def read_labels(folder: Path, manifest: Manifest) -> np.ndarray:
    """Read the labels of a split, `int64 (N,)`, without its images."""
    columns = [
        pq.read_table(folder / shard.file, columns=["label"])["label"].to_numpy()
        for shard in manifest.shards
    ]
    return np.concatenate(columns).astype(np.int64)


class ChannelHistogram:
    """Count of each pixel value (0 to 255) in each channel.

    Counts are integers, so the statistics do not depend on the order or the parts in which the
    images are added.
    """

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros((channels, 256), np.int64)

    def add(self, pixels: np.ndarray) -> None:
        """Add the pixels of some images, `uint8 (N, H, W, C)`."""
        for channel, counts in enumerate(self.counts):
            counts += np.bincount(pixels[..., channel].reshape(-1), minlength=256)

    def compute_statistics(self) -> Channels:
        """Return mean and standard deviation of each channel."""
        values = np.arange(256, dtype=np.float64)
        mean = [float(counts @ values / counts.sum()) for counts in self.counts]
        std = [
            float(np.sqrt(counts @ (values - channel_mean) ** 2 / counts.sum()))
            for counts, channel_mean in zip(self.counts, mean, strict=True)
        ]
        return Channels(mean=mean, std=std)
