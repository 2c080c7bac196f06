"""Sampling: the order of the images in each epoch, drawn from the seed and the epoch."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


def mix_seed(seed: int, position: int) -> int:
    """Return the seed of 32 bits for a random stream, of which each training has many.

    Args:
        seed: root seed of the training. Different ones give unrelated streams.
        position: number of the stream within the training, below 2**32.

    On a CPU, torch uses no more than 32 bits of a seed. It mixes them well before it initialises
    its Mersenne Twister, so that generators with neighbouring seeds are independent. The root seed
    0 leaves `position` as it is, as all versions of Kiln have done.
    """
    digest = hashlib.blake2b(str(seed).encode(), digest_size=4).digest() if seed else b""
    return int.from_bytes(digest) ^ position


def make_epoch_generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    """Return the random generator of one stream of one epoch; `stream` is from 0 to 15."""
    return torch.Generator().manual_seed(mix_seed(seed, epoch << 4 | stream))


def sample_batches(
    labels: Tensor, global_batch: int, seed: int, epoch: int, *, balanced: bool = False
) -> tuple[Tensor, ...]:
    """Return the global batches of one epoch, each an `int64 (B,)` tensor of row indices.

    Without `balanced`, an epoch contains every row exactly once. With `balanced`, it has the same
    number N of rows and contains every class equally often, up to one row. Within a class every
    row is used once before any row is used again.

    The last batch may be smaller than `global_batch`.

    Args:
        labels: class index of each row, `int64 (N,)`.
        global_batch: number of rows in a batch.
        seed: root seed of the training.
        epoch: number of the epoch.
        balanced: sample every class equally often.
    """
    generator = make_epoch_generator(seed, epoch, 0)
    if balanced:
        rows = _sample_balanced_rows(labels, generator)
        order = rows[torch.randperm(len(rows), generator=generator)]
    else:
        order = torch.randperm(len(labels), generator=generator)
    batches: tuple[Tensor, ...] = order.split(global_batch)
    return batches


def _sample_balanced_rows(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return N rows, grouped by class, with an equal number of rows of each class."""
    classes = labels.unique()
    quota, remainder = divmod(len(labels), len(classes))
    sampled = []
    for index, label in enumerate(classes):
        rows = (labels == label).nonzero().squeeze(1)
        count = quota + (index < remainder)
        permutations = [
            rows[torch.randperm(len(rows), generator=generator)]
            for _ in range(math.ceil(count / len(rows)))
        ]
        sampled.append(torch.cat(permutations)[:count])
    return torch.cat(sampled)
