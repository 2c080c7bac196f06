"""Validation, with the same result for any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from components.data.loading.image_stores import ImageStore
from components.training.collectives import get_rank_and_world_size, sum_over_ranks

# Fixed, so that an image is always computed in the same batch, whatever the number of ranks.
VALIDATION_BATCH = 500
# Pixels of the largest image for which a batch is that large. In fp32 a batch of larger images
# would take more memory than a training step.
_MAX_PIXELS = 64 * 64


def choose_batch_size(shape: tuple[int, ...]) -> int:
    """Return the number of images `(H, W, C)` of a batch that needs no gradients."""
    pixels = shape[0] * shape[1]
    return max(1, min(VALIDATION_BATCH, VALIDATION_BATCH * _MAX_PIXELS // pixels))


@torch.inference_mode()
def validate(
    model: nn.Module,
    images: ImageStore,
    device: torch.device,
    on_progress: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Return the mean negative log-likelihood (nats) and top-1 over `images`, in fp32.

    The result is the same to the bit for any number of ranks. Each batch is computed by one rank,
    and the sums of the batches are added in the order of the data set. Every rank calls this
    function. `on_progress` is called before each batch.
    """
    model.eval()
    rank, world = get_rank_and_world_size()
    batch_size = choose_batch_size(images.shape)
    starts = range(0, len(images), batch_size)
    sums = torch.zeros(len(starts), 2, dtype=torch.float64, device=device)
    for n, start in enumerate(starts):
        if n % world == rank:
            on_progress()
            rows = torch.arange(start, min(start + batch_size, len(images)))
            labels = images.labels[rows].to(device)
            logits = model(images.fetch(rows))
            sums[n, 0] = F.cross_entropy(logits.double(), labels, reduction="sum")
            sums[n, 1] = (logits.argmax(1) == labels).sum()
    losses, correct = zip(*sum_over_ranks(sums).tolist(), strict=True)
    return math.fsum(losses) / len(images), math.fsum(correct) / len(images)
