"""Image stores: the images of a split in memory, or in one file on the disk of this node.

Both return the same images. Only memory use and speed differ.
"""

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
from components.data.format.shards import (
    read_labels,
    read_manifest,
    read_row_groups,
    read_split,
)
from components.errors import UserError
from components.files import exclusive_lock, stale_paths
from components.records.splits import Manifest

# Largest share of a node's free memory that the images of all its workers may occupy.
_MAX_MEMORY_SHARE = 0.25
# Free space that is required on the disk, as a multiple of the size of the pixel file.
_DISK_MARGIN = 1.05


class ImageStore(Protocol):
    """The images of one split, accessed by row.

    `labels` is `int64 (N,)` on the CPU. `shape` is the shape of one image, `(H, W, C)`.
    """

    labels: Tensor
    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def fetch(self, rows: Tensor) -> Tensor:
        """Return the images of `rows`, `uint8 (B, H, W, C)`, on the training device."""

    def fetch_ids(self, rows: list[int]) -> list[str]:
        """Return the ids of `rows`."""


class InMemoryImages:
    """All images as one tensor on the training device."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self.pixels = torch.from_numpy(images.pixels).to(device)
        self.labels = torch.from_numpy(images.labels)
        self.ids = images.ids
        self.shape = images.pixels.shape[1:]

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, rows: Tensor) -> Tensor:
        return self.pixels[rows.to(self.pixels.device, non_blocking=True)]

    def fetch_ids(self, rows: list[int]) -> list[str]:
        return [self.ids[row] for row in rows]


class DiskImages:
    """Decoded images in one file on the disk of this node, read when they are needed.

    Memory use does not depend on the number of images. The file is written once from the verified
    shards and is as large as the decoded images. All workers of the node and later trainings on
    the same data share it.
    """

    def __init__(
        self, folder: Path, cache: Path, device: torch.device, on_progress: Callable[[], None]
    ) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.device = device
        self.labels = torch.from_numpy(read_labels(folder, self.manifest))
        self.shape: tuple[int, ...] = self.manifest.shape
        self.image_bytes = int(np.prod(self.shape))
        self.file = ensure_pixel_file(folder, self.manifest, cache, on_progress).open("rb")
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, rows: Tensor) -> Tensor:
        on_gpu = self.device.type == "cuda"
        images = torch.empty((len(rows), *self.shape), dtype=torch.uint8, pin_memory=on_gpu)
        buffer = images.numpy().reshape(len(rows), self.image_bytes)
        # Reading in the order of the file means fewer seeks on a rotating disk.
        for index in np.argsort(rows.numpy()):
            offset = int(rows[index]) * self.image_bytes
            if os.preadv(self.file.fileno(), [buffer[index]], offset) != self.image_bytes:
                raise UserError(f"{self.file.name} was cut short; remove it and run this again")
        return self._copy_beside_computation(images) if on_gpu else images

    def _copy_beside_computation(self, images: Tensor) -> Tensor:
        """Return a copy on the GPU, made while the GPU computes what it was given before."""
        user = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            copied = images.to(self.device, non_blocking=True)
            end = torch.cuda.Event()
            end.record()
        # Its memory must not be reused before the user's stream is through with it.
        copied.record_stream(user)
        end.synchronize()
        return copied

    def fetch_ids(self, rows: list[int]) -> list[str]:
        """Return the ids of `rows`; reads the whole split, since ids are only in the shards."""
        ids: dict[int, str] = {}
        start = 0
        for images in read_row_groups(self.folder, self.manifest):
            ids |= {
                row: images.ids[row - start] for row in rows if start <= row < start + len(images)
            }
            start += len(images)
        return [ids[row] for row in rows]


def open_image_store(
    folder: Path,
    kind: str,
    cache: Path,
    device: torch.device,
    workers_on_node: int,
    on_progress: Callable[[], None] = lambda: None,
) -> ImageStore:
    """Open the images of one split for training.

    Args:
        folder: folder of the split.
        kind: `memory`, `disk` or `auto`; `auto` takes memory if the decoded images occupy at most
            a quarter of what is free: of the GPU's memory, or of this worker's equal share of the
            node's memory.
        cache: folder for the files of decoded images (`disk`).
        device: device on which images are returned.
        workers_on_node: number of workers on this node, each of which opens the split.
        on_progress: called repeatedly while a file is being written or waited for.

    Raises:
        UserError: a shard is missing or altered, or the disk has too little space.
    """
    if kind == "auto":
        manifest = read_manifest(folder)
        free = (
            torch.cuda.mem_get_info(device)[0]
            if device.type == "cuda"
            else psutil.virtual_memory().available / workers_on_node
        )
        kind = "memory" if _get_decoded_bytes(manifest) <= _MAX_MEMORY_SHARE * free else "disk"
    if kind == "memory":
        return InMemoryImages(read_split(folder)[0], device)
    return DiskImages(folder, cache, device, on_progress)


def _get_decoded_bytes(manifest: Manifest) -> int:
    return manifest.rows * int(np.prod(manifest.shape))


def ensure_pixel_file(
    folder: Path, manifest: Manifest, cache: Path, on_progress: Callable[[], None]
) -> Path:
    """Return the file of a split's decoded images, written first if it is missing or incomplete.

    The file lies in `cache` and is named by the digest of the split. It contains the images back
    to back in the order of the split. One process writes it while others wait for a lock. Writing
    it also deletes files of other splits that have not been used for long.

    Raises:
        UserError: a shard is missing or altered, or the disk has too little space.
    """
    path = cache / f"{manifest.sha256}.pixels"
    size = _get_decoded_bytes(manifest)
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(cache / f".{manifest.sha256}.lock", str(path), wait=on_progress):
        if path.is_file() and path.stat().st_size == size:
            os.utime(path)  # `stale_paths` compares modification times
            return path
        free = shutil.disk_usage(cache).free
        if free < size * _DISK_MARGIN:
            raise UserError(
                f"{cache} has {free / 1e9:.1f} GB left and the images of {folder} take "
                f"{size / 1e9:.1f} GB; make room, or name a larger disk of this node in "
                "KILN_SCRATCH, or set train.images: memory"
            )
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                for images in read_row_groups(folder, manifest):
                    file.write(np.ascontiguousarray(images.pixels).data)
                    on_progress()
            partial.replace(path)
            for stale in stale_paths(cache.glob("*.pixels")):
                stale.unlink(missing_ok=True)
        finally:
            partial.unlink(missing_ok=True)
    return path


class Prefetcher:
    """Reads the images of the next step from disk while the current step is computed.

    `key` identifies a request and is chosen by the caller. Images in memory are not prefetched.
    """

    def __init__(self, store: ImageStore) -> None:
        self.store = store
        self.reader = ThreadPoolExecutor(1, "images") if isinstance(store, DiskImages) else None
        self.pending: dict[Hashable, Future[Tensor]] = {}

    @property
    def resident(self) -> bool:
        """True if all images are in the memory of the device."""
        return self.reader is None

    def submit(self, key: Hashable, rows: Tensor) -> None:
        """Start to read the images of `rows`, unless `key` is already pending."""
        if self.reader is not None and key not in self.pending:
            self.pending[key] = self.reader.submit(self.store.fetch, rows)

    def get(self, key: Hashable, rows: Tensor) -> Tensor:
        """Return the images of `rows`, `uint8 (B, H, W, C)`: those of `key` if submitted before."""
        future = self.pending.pop(key, None)
        return self.store.fetch(rows) if future is None else future.result()
