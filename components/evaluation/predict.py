"""Logits of a whole split, the same to the bit for any number of processes."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from components.errors import UserError
from components.records.splits import Manifest
from components.records.training import Network


def predict_split(
    module: nn.Module,
    pixels: np.ndarray,
    batch_size: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, float]:
    """Compute the logits of a whole split in this process.

    Returns:
        logits `float32 (N, K)` and the seconds spent in the module.
    """
    starts = list_batch_starts(len(pixels), batch_size)
    logits, seconds = predict_batches(module, pixels, batch_size, starts, on_progress)
    return np.concatenate(logits), seconds


def list_batch_starts(rows: int, batch_size: int) -> list[int]:
    """Return the first row of each batch of a split.

    The batches do not depend on the number of processes, and one process computes a whole batch.
    """
    return list(range(0, rows, batch_size))


def require_compatible(name: str, network: Network, split: Manifest) -> None:
    """Check that a network was trained for the classes and the image shape of a split.

    Raises:
        UserError: the classes or the shapes differ. The message calls the model `name`.
    """
    if (network.classes, network.shape) != (split.classes, split.shape):
        raise UserError(
            f"{name} was trained for {len(network.classes)} classes and images {network.shape}, "
            f"the {split.split} split has {len(split.classes)} and {split.shape}"
        )


@torch.inference_mode()
def predict_batches(
    module: nn.Module,
    pixels: np.ndarray,
    batch_size: int,
    starts: list[int],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[np.ndarray], float]:
    """Compute the logits of some batches of a split.

    Sets the number of torch threads of this process to 1.

    Args:
        module: maps images to logits.
        pixels: all images of the split, `uint8 (N, H, W, C)`.
        batch_size: number of images per forward pass.
        starts: first row of each batch to compute.
        on_progress: called after each batch with the numbers of finished and of all batches.

    Returns:
        logits `float32 (B, K)` of each batch and the seconds spent in the module.
    """
    # Sums depend on the number of threads, so every process has one, however many there are.
    torch.set_num_threads(1)
    logits = []
    seconds = 0.0
    for done, start in enumerate(starts, 1):
        batch = torch.from_numpy(pixels[start : start + batch_size])
        begin = time.perf_counter()
        logits.append(module(batch).numpy())
        seconds += time.perf_counter() - begin
        on_progress(done, len(starts))
    return logits, seconds
