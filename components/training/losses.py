"""What is minimised, per example."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from components.params import Loss


class Criterion:
    """Losses `float (B,)` in nats of logits `(B, K)` and labels `int64 (B,)` or probabilities `float (B, K)`.

    `counts` has the training images of each class, `(K,)`. Class weights average 1 over the training images, so that the sum
    over a batch divided by its size keeps the scale that the learning rate was chosen for.
    """

    def __init__(self, settings: Loss, smoothing: float, counts: Tensor) -> None:
        self.settings, self.smoothing = settings, smoothing
        self.weights: Tensor | None = None
        if settings.class_weights == "balanced":
            there = counts.clamp(min=1)
            self.weights = (counts.sum() / (there * (counts > 0).sum())).float()

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.settings.name == "focal":
            losses = self._focal(logits, targets)
        else:
            losses = F.cross_entropy(logits, targets, label_smoothing=self.smoothing, reduction="none")
        if self.weights is None:
            return losses
        return losses * (self.weights[targets] if targets.ndim == 1 else targets @ self.weights)

    def _focal(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The sum over classes of q (1 - p)^gamma (-log p), which for a label is the paper's loss."""
        classes = logits.shape[1]
        q = F.one_hot(targets, classes).to(logits.dtype) if targets.ndim == 1 else targets
        q = q * (1 - self.smoothing) + self.smoothing / classes
        log_p = logits.log_softmax(1)
        # 1 - p without cancellation where p is near 1.
        rest = -torch.expm1(log_p)
        return -(q * rest.clamp(min=1e-12) ** self.settings.gamma * log_p).sum(1)
