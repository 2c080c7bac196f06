"""The module that is trained, exported and served: stored images to logits."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Normalises images and applies `network`.

    Images are normalised by the channel statistics of the training split. These are buffers of the
    module, so that they are saved with the weights and no caller can forget or change them.

    With `mirror`, outside training, logits are the mean of the logits of an image and of its
    mirror image.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, mean: list[float], std: list[float], mirror: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.mirror = mirror
        self._backbone: list[nn.Module] = []
        self._frozen: list[nn.Parameter] = []
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        # A constant channel has a standard deviation of 0 and is only centred.
        self.register_buffer("std", torch.tensor([s or 1.0 for s in std]).view(1, -1, 1, 1))

    def freeze_backbone(self, head: str) -> None:
        """Stop the training of all but the submodule `head` of `network`.

        Batch norm and dropout of the rest stay in evaluation mode.
        """
        trained = self.network.get_submodule(head)
        in_head = set(trained.parameters())
        # Networks may have parameters of their own that are never trained.
        self._frozen = [
            p for p in self.network.parameters() if p.requires_grad and p not in in_head
        ]
        for p in self._frozen:
            p.requires_grad_(False)
        self._backbone = [m for m in self.network.modules() if m not in set(trained.modules())]
        self.train(self.training)

    def unfreeze_backbone(self) -> None:
        """Train all that `freeze_backbone` stopped."""
        for p in self._frozen:
            p.requires_grad_(True)
        self._frozen = []
        self._backbone = []
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self._backbone:
            module.training = False
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `float (N, K)` of images `uint8 (N, H, W, C)`."""
        # The permuted view is `(N, C, H, W)` in channels-last layout, without a copy.
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype)
        x = (x - self.mean) / self.std
        logits: Tensor = self.network(x)
        if self.mirror and not self.training:
            mirrored: Tensor = self.network(x.flip(3))
            return (logits + mirrored) / 2
        return logits
