"""The augmented training split: copies drawn from a policy, each from a stream of its own image and copy number."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable

import joblib
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from components.data.images import Images
from components.params import Augment, Crop, Erasing, HorizontalFlip, Operation, Rotation, Shift, VerticalFlip

# Below this many copies, starting processes costs more than it saves.
_PARALLEL_FROM = 10_000

_BUILDERS: dict[type, Callable[..., Callable[[int, int], v2.Transform]]] = {
    HorizontalFlip: lambda o: lambda h, w: v2.RandomHorizontalFlip(o.p),
    VerticalFlip: lambda o: lambda h, w: v2.RandomVerticalFlip(o.p),
    Crop: lambda o: lambda h, w: v2.RandomCrop((h, w), padding=o.padding),
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


class _Copies(Dataset[torch.Tensor]):
    def __init__(self, images: Images, rows: np.ndarray, numbers: np.ndarray, policy: list[Operation], seed: int) -> None:
        self.images, self.rows, self.numbers, self.seed = images, rows, numbers, seed
        self.transform = build_policy(policy, *images.pixels.shape[1:3])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        row = int(self.rows[index])
        key = f"{self.seed}/{self.images.ids[row]}/{self.numbers[index]}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=7).digest()))
        image = torch.from_numpy(self.images.pixels[row]).permute(2, 0, 1)
        copy: torch.Tensor = self.transform(image)
        return copy.permute(1, 2, 0)


def augment(
    images: Images, settings: Augment, seed: int, advance: Callable[[int, int], None] = lambda done, total: None
) -> Images:
    """`images` followed by their copies, named `<id>~<number>` from 1.

    A copy depends on the seed, its image's id and pixels, its number and the policy: not on the other images, their
    order or the number of processes. `advance(done, total)` is told of progress.
    """
    counts = copies_per_image(images.labels, settings.copies, settings.balance)
    rows = np.repeat(np.arange(len(images)), counts)
    numbers = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    if not len(rows):
        return images
    pixels = np.empty((len(rows), *images.pixels.shape[1:]), np.uint8)
    workers = joblib.cpu_count() if len(rows) >= _PARALLEL_FROM else 0
    # Not a plain fork: torch has threads, and a child forked among them may hang.
    context = multiprocessing.get_context("forkserver") if workers else None
    if context:
        context.set_forkserver_preload([__name__])  # imports torchvision once for all of them
    copies = _Copies(images, rows, numbers, settings.policy, seed)
    loader = DataLoader(copies, batch_size=256, num_workers=workers, multiprocessing_context=context)
    done = 0
    for batch in loader:
        pixels[done : done + len(batch)] = batch.numpy()
        done += len(batch)
        advance(done, len(rows))
    return Images(
        np.concatenate([images.pixels, pixels]),
        np.concatenate([images.labels, images.labels[rows]]),
        images.ids + [f"{images.ids[row]}~{number}" for row, number in zip(rows, numbers, strict=True)],
    )
