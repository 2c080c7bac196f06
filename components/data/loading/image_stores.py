"""Where a training finds its images: all in memory, or row by row on this node's disk. What it sees is the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil
import torch
from torch import Tensor

from components.data.format.images import Images
from components.data.format.shards import read_labels, read_manifest, read_pieces, read_split
from components.errors import UserError
from components.files import exclusive_lock, stale_paths
from components.records.splits import Manifest

# Share of a node's free memory that the images of all its workers may take.
_SHARE = 0.25


class Pool(Protocol):
    """`labels` is `int64 (N,)`, `shape` that of one image, `(H, W, C)`."""

    labels: Tensor
    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Tensor:
        """`uint8 (B, H, W, C)`, on the device that computes."""

    def names(self, rows: list[int]) -> list[str]:
        """The ids of some rows."""


class Resident:
    """All images as one tensor on the device."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self.pixels, self.labels = torch.from_numpy(images.pixels).to(device), torch.from_numpy(images.labels)
        self.ids, self.shape = images.ids, images.pixels.shape[1:]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Tensor:
        return self.pixels[rows.to(self.pixels.device)]

    def names(self, rows: list[int]) -> list[str]:
        return [self.ids[row] for row in rows]


class OnDisk:
    """Images in one file of this node's disk, read as they are needed: memory stays the same however many there are.

    The file is made once, from the verified shards, and is as large as the decoded images; every worker of the node reads
    it, and so do later trainings of the same data.
    """

    def __init__(self, folder: Path, cache: Path, device: torch.device, alive: Callable[[], None]) -> None:
        self.folder, self.manifest, self.device = folder, read_manifest(folder), device
        self.labels = torch.from_numpy(read_labels(folder, self.manifest))
        self.shape: tuple[int, ...] = self.manifest.shape
        self.size = int(np.prod(self.shape))
        self.file = unpack(folder, self.manifest, cache, alive).open("rb")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Tensor:
        images = np.empty((len(rows), self.size), np.uint8)
        # In the order of the file, which is kinder to a disk that turns.
        for place in np.argsort(rows.numpy()):
            if os.preadv(self.file.fileno(), [images[place]], int(rows[place]) * self.size) != self.size:
                raise UserError(f"{self.file.name} was cut short; remove it and run this again")
        return torch.from_numpy(images.reshape(len(rows), *self.shape)).to(self.device)

    def names(self, rows: list[int]) -> list[str]:
        found: dict[int, str] = {}
        start = 0
        for images in read_pieces(self.folder, self.manifest):
            found |= {row: images.ids[row - start] for row in rows if start <= row < start + len(images)}
            start += len(images)
        return [found[row] for row in rows]


def open_pool(
    folder: Path, kind: str, cache: Path, device: torch.device, sharers: int, alive: Callable[[], None] = lambda: None
) -> Pool:
    """The images of one split, `memory` or `disk`, or as they fit (`auto`); `sharers` workers of this node hold them.

    `alive` is called now and then while a file is made or waited for.

    Raises:
        UserError: a shard is missing or altered, or the disk has no room.
    """
    manifest = read_manifest(folder)
    decoded = manifest.rows * int(np.prod(manifest.shape))
    if kind == "auto":
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available / sharers
        kind = "memory" if decoded <= _SHARE * free else "disk"
    return Resident(read_split(folder)[0], device) if kind == "memory" else OnDisk(folder, cache, device, alive)


def unpack(folder: Path, manifest: Manifest, cache: Path, alive: Callable[[], None]) -> Path:
    """The decoded images of a split as one file named by their digest: made by the first that asks, while others wait."""
    path = cache / f"{manifest.sha256}.pixels"
    size = manifest.rows * int(np.prod(manifest.shape))
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(cache / f".{manifest.sha256}.lock", str(path), wait=alive):
        if path.is_file() and path.stat().st_size == size:
            os.utime(path)
            return path
        free = shutil.disk_usage(cache).free
        if free < size * 1.05:
            raise UserError(
                f"{cache} has {free / 1e9:.1f} GB left and the images of {folder} take {size / 1e9:.1f} GB; make room, or "
                "name a larger disk of this node in KILN_SCRATCH, or set train.images: memory"
            )
        beside = path.with_suffix(".partial")
        try:
            with beside.open("wb") as file:
                for images in read_pieces(folder, manifest):
                    file.write(np.ascontiguousarray(images.pixels).data)
                    alive()
            beside.replace(path)
            for old in stale_paths(cache.glob("*.pixels")):
                old.unlink(missing_ok=True)
        finally:
            beside.unlink(missing_ok=True)
    return path


class Ahead:
    """Reads the images of the next step from the disk while the one at hand is computed with. Keys are the caller's own."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.reader = ThreadPoolExecutor(1, "images") if isinstance(pool, OnDisk) else None
        self.coming: dict[Hashable, Future[Tensor]] = {}

    def expect(self, key: Hashable, rows: Tensor) -> None:
        if self.reader is not None and key not in self.coming:
            self.coming[key] = self.reader.submit(self.pool.take, rows)

    def take(self, key: Hashable, rows: Tensor) -> Tensor:
        coming = self.coming.pop(key, None)
        return self.pool.take(rows) if coming is None else coming.result()
