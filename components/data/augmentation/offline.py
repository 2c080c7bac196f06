"""Augmented copies of training images, made once and stored with the originals.

Each copy has a random stream of its own, seeded with the id of its image and its number.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, assert_never

import joblib
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from components.data.format.images import Images
from components.data.format.shards import read_row_groups
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

# With fewer copies, starting processes costs more time than it saves.
_MIN_COPIES_FOR_PROCESSES = 10_000
_BILINEAR = v2.InterpolationMode.BILINEAR


def build_policy(policy: list[Operation], height: int, width: int) -> v2.Compose:
    """Return the torchvision transforms of a non-empty policy, for images `uint8 (C, H, W)`."""
    return v2.Compose([_build_transform(operation, height, width) for operation in policy])


def _build_transform(operation: Operation, height: int, width: int) -> v2.Transform:
    size = (height, width)
    match operation:
        case HorizontalFlip(p=p):
            return v2.RandomHorizontalFlip(p)
        case VerticalFlip(p=p):
            return v2.RandomVerticalFlip(p)
        case Crop(padding=padding):
            return v2.RandomCrop(size, padding=padding)
        case ResizedCrop(scale=scale, ratio=ratio):
            return v2.RandomResizedCrop(size, scale, ratio, antialias=True)
        case Affine(degrees=degrees, translate=share, scale=scale, shear=shear):
            return v2.RandomAffine(degrees, (share, share), scale, shear, _BILINEAR)
        case ColourJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue):
            return v2.ColorJitter(brightness, contrast, saturation, hue)
        case RandAugment(operations=operations, magnitude=magnitude):
            return v2.RandAugment(operations, magnitude)
        case TrivialAugment():
            return v2.TrivialAugmentWide()
        case AutoAugment(policy=policy):
            return v2.AutoAugment(v2.AutoAugmentPolicy(policy))
        case Shift(fraction=fraction):
            return v2.RandomAffine(0, translate=(fraction, fraction))
        case Rotation(degrees=degrees):
            return v2.RandomRotation(degrees, _BILINEAR)
        case Erasing(p=p, scale=scale):
            return v2.RandomErasing(p, scale=scale)
        case _:
            assert_never(operation)


def count_copies(labels: np.ndarray, copies: int, balance: bool) -> np.ndarray:
    """Return the number of copies of each image, `int64 (N,)`.

    With `balance`, every class that has images is brought to the same size, originals included:
    the size that the largest class has after `copies`. Where the copies of a class do not divide
    evenly, its first images get one more.
    """
    counts = np.full(len(labels), copies, np.int64)
    if not balance:
        return counts
    sizes = np.bincount(labels)
    target = int(sizes.max()) * (1 + copies)
    for label in np.flatnonzero(sizes):
        rows = np.flatnonzero(labels == label)
        each, remainder = divmod(target - len(rows), len(rows))
        counts[rows] = each
        counts[rows[:remainder]] += 1
    return counts


class OriginalImages(Protocol):
    """Original images, read one at a time. `shape` is the shape of one image, `(H, W, C)`."""

    shape: tuple[int, ...]

    def fetch(self, row: int) -> tuple[np.ndarray, str]:
        """Return the pixels, `uint8 (H, W, C)`, and the id of the image at `row`."""


class InMemorySource:
    """Original images in memory."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.shape = images.pixels.shape[1:]

    def fetch(self, row: int) -> tuple[np.ndarray, str]:
        return self.images.pixels[row], self.images.ids[row]


class ShardSource:
    """Original images in the shards of a split, one shard in memory at a time.

    Fast for rows in ascending order; each change of shard reads a whole shard.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.shape: tuple[int, ...] = manifest.shape
        self.starts = np.cumsum([0] + [shard.rows for shard in manifest.shards])
        self.shard: int | None = None
        self.images: Images

    def fetch(self, row: int) -> tuple[np.ndarray, str]:
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        if shard != self.shard:
            groups = read_row_groups(self.folder, self.manifest, slice(shard, shard + 1))
            self.images = Images.concatenate(list(groups))
            self.shard = shard
        index = row - int(self.starts[shard])
        return self.images.pixels[index], self.images.ids[index]


class _CopyDataset(Dataset[tuple[torch.Tensor, str]]):
    """Pairs of a copy, `uint8 (H, W, C)`, and its id; item i is copy `numbers[i]` of `rows[i]`."""

    def __init__(
        self,
        source: OriginalImages,
        rows: np.ndarray,
        numbers: np.ndarray,
        policy: list[Operation],
        seed: int,
    ) -> None:
        self.source = source
        self.rows = rows
        self.numbers = numbers
        self.seed = seed
        self.transform = build_policy(policy, *source.shape[:2])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        pixels, image_id = self.source.fetch(int(self.rows[index]))
        number = self.numbers[index]
        key = f"{self.seed}/{image_id}/{number}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=7).digest()))
        copy: torch.Tensor = self.transform(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
        return copy.permute(1, 2, 0), f"{image_id}~{number}"


def make_copies(
    source: OriginalImages,
    labels: np.ndarray,
    settings: Augment,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Images]:
    """Yield the copies of all images of `source` in batches, in the order of the images.

    The id of a copy is `<id of the image>~<number>`; numbers begin at 1. A copy depends on the
    seed, the id and pixels of its image, its number and the policy. It does not depend on other
    images, their order or the number of processes.

    Args:
        source: the original images.
        labels: class index of each original image, `int64 (N,)`.
        settings: number of copies, balancing, and the policy.
        seed: root seed of the pipeline.
        on_progress: called after each batch with the numbers of finished and of all copies.
    """
    counts = count_copies(labels, settings.copies, settings.balance)
    rows = np.repeat(np.arange(len(labels)), counts)
    if not len(rows):
        return
    numbers = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    workers = joblib.cpu_count() if len(rows) >= _MIN_COPIES_FOR_PROCESSES else 0
    # A plain fork could hang: torch has threads, and a child inherits the locks they hold.
    context = multiprocessing.get_context("forkserver") if workers else None
    if context:
        # The fork server imports torchvision once; its children inherit the import.
        context.set_forkserver_preload([__name__])
    loader = DataLoader(
        _CopyDataset(source, rows, numbers, settings.policy, seed),
        batch_size=_choose_batch_size(source.shape),
        num_workers=workers,
        multiprocessing_context=context,
    )
    done = 0
    for pixels, ids in loader:
        stop = done + len(ids)
        yield Images(pixels.numpy(), labels[rows[done:stop]], list(ids))
        done = stop
        on_progress(done, len(rows))


def _choose_batch_size(shape: tuple[int, ...]) -> int:
    """Return the number of copies per batch: at most 8 MiB, as each process has several batches."""
    return max(1, min(256, (8 << 20) // math.prod(shape)))


def augment(images: Images, settings: Augment, seed: int) -> Images:
    """Return `images` followed by their copies, all in memory."""
    source = InMemorySource(images)
    return Images.concatenate([images, *make_copies(source, images.labels, settings, seed)])
