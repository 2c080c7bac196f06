"""The batch path: one permutation per epoch, random crop and flip as a single gather.

Every draw is made for the whole epoch at once from (seed, epoch) and looked up by the example's row, so that what an
example looks like depends neither on the number of workers nor on the order in which they come to it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def epoch_generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    """An independent stream for each (seed, epoch, stream)."""
    # A Mersenne Twister seeded with neighbouring numbers is well mixed by torch's initialisation.
    return torch.Generator().manual_seed((seed << 24 | epoch) << 4 | stream)


def epoch_batches(labels: Tensor, global_batch: int, seed: int, epoch: int, *, balanced: bool = False) -> tuple[Tensor, ...]:
    """The global batches of one epoch, as rows of the data set. The last batch may be short.

    Each row comes once, or with `balanced` (labels: int64 `(N,)`) each class equally often, as near as N allows, and of one
    class no row comes again before all others have come as often.
    """
    generator = epoch_generator(seed, epoch, 0)
    if balanced:
        rows = _balanced_rows(labels, generator)
        order = rows[torch.randperm(len(rows), generator=generator)]
    else:
        order = torch.randperm(len(labels), generator=generator)
    batches: tuple[Tensor, ...] = order.split(global_batch)
    return batches


def _balanced_rows(labels: Tensor, generator: torch.Generator) -> Tensor:
    classes = labels.unique()
    quota, extra = divmod(len(labels), len(classes))
    chosen = []
    for n, label in enumerate(classes):
        rows = (labels == label).nonzero().squeeze(1)
        wanted = quota + (n < extra)
        turns = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(-(-wanted // len(rows)))]
        chosen.append(torch.cat(turns)[:wanted])
    return torch.cat(chosen)
