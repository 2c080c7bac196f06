"""The augmented training split: copies drawn from a policy, each from a stream of its own image and copy number."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import joblib
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from components.data.format.images import Images
from components.data.format.shards import read_pieces
from components.params import (
    Affine,
    Augment,
    AutoAugment,
    ColourJitter,
    Crop,
    Erasing,
    HorizontalFlip,
    Operation,
    RandAugment,
    ResizedCrop,
    Rotation,
    Shift,
    TrivialAugment,
    VerticalFlip,
)
from components.records.splits import Manifest

# Below this many copies, starting processes costs more than it saves.
_PARALLEL_FROM = 10_000

_BUILDERS: dict[type, Callable[..., Callable[[int, int], v2.Transform]]] = {
    HorizontalFlip: lambda o: lambda h, w: v2.RandomHorizontalFlip(o.p),
    VerticalFlip: lambda o: lambda h, w: v2.RandomVerticalFlip(o.p),
    Crop: lambda o: lambda h, w: v2.RandomCrop((h, w), padding=o.padding),
    ResizedCrop: lambda o: lambda h, w: v2.RandomResizedCrop((h, w), o.scale, o.ratio, antialias=True),
    Affine: lambda o: (
        lambda h, w: v2.RandomAffine(o.degrees, (o.translate, o.translate), o.scale, o.shear, v2.InterpolationMode.BILINEAR)
    ),
    ColourJitter: lambda o: lambda h, w: v2.ColorJitter(o.brightness, o.contrast, o.saturation, o.hue),
    RandAugment: lambda o: lambda h, w: v2.RandAugment(o.operations, o.magnitude),
    TrivialAugment: lambda o: lambda h, w: v2.TrivialAugmentWide(),
    AutoAugment: lambda o: lambda h, w: v2.AutoAugment(v2.AutoAugmentPolicy(o.policy)),
    Shift: lambda o: lambda h, w: v2.RandomAffine(0, translate=(o.fraction, o.fraction)),
    Rotation: lambda o: lambda h, w: v2.RandomRotation(o.degrees, v2.InterpolationMode.BILINEAR),
    Erasing: lambda o: lambda h, w: v2.RandomErasing(o.p, scale=o.scale),
}


def build_policy(policy: list[Operation], height: int, width: int) -> v2.Compose:
    """torchvision's transforms for `policy`, on `uint8 (C, H, W)`."""
    return v2.Compose([_BUILDERS[type(operation)](operation)(height, width) for operation in policy])


def copies_per_image(labels: np.ndarray, copies: int, balance: bool) -> np.ndarray:
    """How many copies each image gets, `int64 (N,)`.

    With `balance`, every class that has images ends with as many, originals included, as the largest class has after
    `copies`; within a class the first images get the odd ones.
    """
    counts = np.full(len(labels), copies, np.int64)
    if not balance:
        return counts
    sizes = np.bincount(labels)
    target = int(sizes.max()) * (1 + copies)
    for label in np.flatnonzero(sizes):
        rows = np.flatnonzero(labels == label)
        each, odd = divmod(target - len(rows), len(rows))
        counts[rows] = each
        counts[rows[:odd]] += 1
    return counts


class Rows(Protocol):
    """Images that are fetched one by one, mostly in their order."""

    shape: tuple[int, ...]

    def fetch(self, row: int) -> tuple[np.ndarray, str]:
        """`uint8 (H, W, C)` and its id."""


class Resident:
    """Images in memory."""

    def __init__(self, images: Images) -> None:
        self.images, self.shape = images, images.pixels.shape[1:]

    def fetch(self, row: int) -> tuple[np.ndarray, str]:
        return self.images.pixels[row], self.images.ids[row]


class OnDisk:
    """A split on disk, one shard of which is in memory at a time."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.shape: tuple[int, ...] = manifest.shape
        self.starts = np.cumsum([0] + [shard.rows for shard in manifest.shards])
        self.shard, self.images = -1, Images(np.empty((0, *manifest.shape), np.uint8), np.empty(0, np.int64), [])

    def fetch(self, row: int) -> tuple[np.ndarray, str]:
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        if shard != self.shard:
            pieces = read_pieces(self.folder, self.manifest, slice(shard, shard + 1))
            self.shard, self.images = shard, Images.concatenate(list(pieces))
        at = row - int(self.starts[shard])
        return self.images.pixels[at], self.images.ids[at]


class _Copies(Dataset[tuple[torch.Tensor, str]]):
    def __init__(self, source: Rows, rows: np.ndarray, numbers: np.ndarray, policy: list[Operation], seed: int) -> None:
        self.source, self.rows, self.numbers, self.seed = source, rows, numbers, seed
        self.transform = build_policy(policy, *source.shape[:2])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        pixels, name = self.source.fetch(int(self.rows[index]))
        number = self.numbers[index]
        key = f"{self.seed}/{name}/{number}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=7).digest()))
        copy: torch.Tensor = self.transform(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
        return copy.permute(1, 2, 0), f"{name}~{number}"


def make_copies(
    source: Rows,
    labels: np.ndarray,
    settings: Augment,
    seed: int,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Images]:
    """The copies of all images of `source`, in their order and a few at a time, named `<id>~<number>` from 1.

    A copy depends on the seed, its image's id and pixels, its number and the policy: not on the other images, their
    order or the number of processes. `advance(done, total)` is told of progress.
    """
    counts = copies_per_image(labels, settings.copies, settings.balance)
    rows = np.repeat(np.arange(len(labels)), counts)
    if not len(rows):
        return
    numbers = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    workers = joblib.cpu_count() if len(rows) >= _PARALLEL_FROM else 0
    # Not a plain fork: torch has threads, and a child forked among them may hang.
    context = multiprocessing.get_context("forkserver") if workers else None
    if context:
        context.set_forkserver_preload([__name__])  # imports torchvision once for all of them
    copies = _Copies(source, rows, numbers, settings.policy, seed)
    loader = DataLoader(copies, batch_size=_batch(source.shape), num_workers=workers, multiprocessing_context=context)
    done = 0
    for pixels, names in loader:
        stop = done + len(names)
        yield Images(pixels.numpy(), labels[rows[done:stop]], list(names))
        done = stop
        advance(done, len(rows))


def _batch(shape: tuple[int, ...]) -> int:
    """Images at a time: some megabytes, for each process has several such under way."""
    return max(1, min(256, (8 << 20) // math.prod(shape)))


def augment(images: Images, settings: Augment, seed: int) -> Images:
    """`images` followed by their copies, in memory."""
    return Images.concatenate([images, *make_copies(Resident(images), images.labels, settings, seed)])
