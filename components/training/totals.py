"""Results of one global batch, on the device and on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NUM_SCALARS = 4
"""Scalars that are summed with the gradient: the loss, the correct predictions, the ranks with a
pending preemption and the ranks that were asked to stop."""


@dataclass(frozen=True)
class Totals:
    """Results of one global batch, over all of its micro-batches.

    `loss` is the sum over the images and `correct` the number of correct predictions.
    `preemption_pending` and `stop_requested` are true if they are on any rank.
    """

    loss: float
    correct: int
    preemption_pending: bool
    stop_requested: bool
    gradient_norm: float


class PendingTotals:
    """Totals that a device may still be computing.

    Args:
        values: `Totals` as one vector `(5,)` on the device.
    """

    def __init__(self, values: Tensor) -> None:
        self.copied: torch.cuda.Event | None = None
        if values.is_cuda:
            # Copies into pinned memory are the only ones that do not wait for the device.
            self.values = torch.empty(values.shape, pin_memory=True)
            self.values.copy_(values, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()
        else:
            self.values = values.clone()

    def wait(self) -> Totals:
        """Return the totals as soon as the device has computed them."""
        if self.copied is not None:
            self.copied.synchronize()
        loss, correct, preemptions, stops, gradient_norm = self.values.tolist()
        return Totals(loss, int(correct), preemptions > 0, stops > 0, gradient_norm)
