"""Stored images in, logits out: what is trained is exactly what is served."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Normalises `uint8 (N, H, W, C)` images by the training split's channel statistics and applies `network`.

    The statistics are buffers, so that they travel with the weights and no caller can forget or change them. With `mirror`,
    and but in training, logits are the mean of those of an image and of its mirror image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float], mirror: bool = False) -> None:
        super().__init__()
        self.network, self.mirror = network, mirror
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        # A channel that never varies carries nothing: it is centred and left at that.
        self.register_buffer("std", torch.tensor([s or 1.0 for s in std]).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `float (N, K)`. The permuted view of `(N, H, W, C)` already is `(N, C, H, W)` in channels-last layout."""
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype)
        x = (x - self.mean) / self.std
        logits: Tensor = self.network(x)
        return (logits + self.network(x.flip(3))) / 2 if self.mirror and not self.training else logits
