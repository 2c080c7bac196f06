"""Logits of a whole split, the same to the bit however many processes share the work."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from components.errors import UserError
from components.records.splits import Manifest
from components.records.training import Network


def predict_all(
    module: nn.Module, pixels: np.ndarray, batch_size: int, advance: Callable[[int, int], None] = lambda done, total: None
) -> tuple[np.ndarray, float]:
    """Logits `float32 (N, K)` of a whole split in this process, and the seconds spent in the module."""
    logits, seconds = predict(module, pixels, batch_size, batch_starts(len(pixels), batch_size), advance)
    return np.concatenate(logits), seconds


def batch_starts(rows: int, batch_size: int) -> list[int]:
    """Where each batch begins. Batches are fixed by the split alone, and each is computed whole by one process."""
    return list(range(0, rows, batch_size))


def require_fit(what: str, network: Network, split: Manifest) -> None:
    """Raises `UserError` if a model's classes or the shape of its images are not those of a split."""
    if (network.classes, network.shape) != (split.classes, split.shape):
        raise UserError(
            f"{what} was trained for {len(network.classes)} classes and images {network.shape}, the {split.split} split has "
            f"{len(split.classes)} and {split.shape}"
        )


@torch.inference_mode()
def predict(
    module: nn.Module,
    pixels: np.ndarray,
    batch_size: int,
    starts: list[int],
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[np.ndarray], float]:
    """Logits `float32 (B, K)` of the batches that begin at `starts`, and the seconds spent in the module."""
    torch.set_num_threads(1)  # as many as each of several workers has, so that the sums are the same
    logits, seconds = [], 0.0
    for done, start in enumerate(starts, 1):
        batch = torch.from_numpy(pixels[start : start + batch_size])
        begun = time.perf_counter()
        logits.append(module(batch).numpy())
        seconds += time.perf_counter() - begun
        advance(done, len(starts))
    return logits, seconds
