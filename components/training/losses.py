"""Loss functions, per example."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from components.params import Loss


class Criterion:
    """Losses `float (B,)` in nats of logits `(B, K)`.

    Targets are labels `int64 (B,)` or probabilities `float (B, K)`. Class weights average 1 over
    the training images. The sum over a batch divided by its size thus keeps the scale for which
    the learning rate was chosen.

    Args:
        settings: section `loss` of a recipe.
        smoothing: probability mass that is spread over all classes.
        class_counts: number of training images of each class, `(K,)`.
    """

    def __init__(self, settings: Loss, smoothing: float, class_counts: Tensor) -> None:
        self.settings = settings
        self.smoothing = smoothing
        self.class_weights: Tensor | None = None
        if settings.class_weights == "balanced":
            num_present = (class_counts > 0).sum()
            weights = class_counts.sum() / (class_counts.clamp(min=1) * num_present)
            self.class_weights = weights.float()

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.settings.name == "focal":
            losses = self._focal(logits, targets)
        else:
            losses = F.cross_entropy(
                logits, targets, label_smoothing=self.smoothing, reduction="none"
            )
        if self.class_weights is None:
            return losses
        if targets.ndim == 1:
            return losses * self.class_weights[targets]
        return losses * (targets @ self.class_weights)

    def _focal(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over classes of q (1 - p)^gamma (-log p), for target probabilities q.

        For a label this is the loss of arXiv:1708.02002.
        """
        classes = logits.shape[1]
        q = F.one_hot(targets, classes).to(logits.dtype) if targets.ndim == 1 else targets
        q = q * (1 - self.smoothing) + self.smoothing / classes
        log_p = logits.log_softmax(1)
        # `1 - p` would cancel where p is near 1; expm1 does not.
        one_minus_p = -torch.expm1(log_p)
        # The clamp keeps the gradient finite at p = 1 for gamma below 1.
        return -(q * one_minus_p.clamp(min=1e-12) ** self.settings.gamma * log_p).sum(1)
