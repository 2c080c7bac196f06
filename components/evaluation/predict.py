"""Logits of a whole split, the same to the bit however many processes share the work."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn


def batch_starts(rows: int, batch_size: int) -> list[int]:
    """Where each batch begins. Batches are fixed by the split alone, and each is computed whole by one process."""
    return list(range(0, rows, batch_size))


@torch.inference_mode()
def predict(
    module: nn.Module,
    pixels: np.ndarray,
    batch_size: int,
    starts: list[int],
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[np.ndarray], float]:
    """Logits `float32 (B, K)` of the batches that begin at `starts`, and the seconds spent in the module."""
    logits, seconds = [], 0.0
    for done, start in enumerate(starts, 1):
        batch = torch.from_numpy(pixels[start : start + batch_size])
        begun = time.perf_counter()
        logits.append(module(batch).numpy())
        seconds += time.perf_counter() - begun
        advance(done, len(starts))
    return logits, seconds
