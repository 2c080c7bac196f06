"""On-line augmentation: crop, flip and erasing as a single gather; MixUp and CutMix.

Every draw is made for the whole epoch at once from (seed, epoch) and looked up by the example's row, so that what an
example looks like depends neither on the number of workers nor on the order in which they come to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.data.loading.sampling import epoch_generator
from components.params import OnlineAugment


class Augmenter:
    """On-line augmentation of batches, `uint8 (B, H, W, C)`, of a data set of `rows` images of `size` (H, W).

    Crops read zeros beyond the border, as torchvision's RandomCrop does; an erased square is filled with `fill`
    (the channel means, hence zero after normalisation) and may lie partly outside (Cutout, arXiv:1708.04552).
    """

    def __init__(self, rows: int, size: tuple[int, int], settings: OnlineAugment, fill: Tensor) -> None:
        self.rows, self.size, self.settings, self.fill = rows, size, settings, fill

    def begin(self, seed: int, epoch: int) -> None:
        """Draws the epoch's parameters for every row."""
        n, s = self.rows, self.settings
        height, width = self.size
        generator = epoch_generator(seed, epoch, 1)

        def whole(stop: int) -> Tensor:
            return torch.randint(stop, (n,), generator=generator)

        self.top, self.left = whole(2 * s.crop_padding + 1), whole(2 * s.crop_padding + 1)
        self.flip = torch.rand(n, generator=generator) < s.flip
        self.erase_y, self.erase_x = whole(height), whole(width)

    def batch(self, images: Tensor, rows: Tensor) -> Tensor:
        """The images of these rows as this epoch shows them, on their device."""
        s, device = self.settings, images.device
        height, width = self.size
        if not (s.crop_padding or s.flip or s.erase):
            return images
        if s.crop_padding:
            images = torch.nn.functional.pad(images, (0, 0) + (s.crop_padding,) * 4)
        x = torch.arange(width).expand(len(rows), width)
        x = torch.where(self.flip[rows, None], width - 1 - x, x)
        ys, xs = (torch.arange(height) + self.top[rows, None]).to(device), (x + self.left[rows, None]).to(device)
        images = images[torch.arange(len(rows), device=device)[:, None, None], ys[:, :, None], xs[:, None, :]]
        if s.erase:
            inside_y = _covers(torch.arange(height), self.erase_y[rows], s.erase)
            inside_x = _covers(torch.arange(width), self.erase_x[rows], s.erase)
            mask = (inside_y[:, :, None] & inside_x[:, None, :]).to(device)
            images = torch.where(mask[..., None], self.fill, images)
        return images


def _covers(positions: Tensor, centres: Tensor, side: int) -> Tensor:
    start = centres[:, None] - side // 2
    return (positions >= start) & (positions < start + side)


class Mixer:
    """MixUp and CutMix within a micro-batch, by torchvision; draws come from torch's global stream.

    Maps `uint8 (B, H, W, C)` and labels `int64 (B,)` to `float (B, H, W, C)` and probabilities `float (B, K)`.
    """

    def __init__(self, settings: OnlineAugment, classes: int) -> None:
        from torchvision.transforms import v2  # pulls in half of torch: only where it is used

        self.kinds = [
            kind(alpha=alpha, num_classes=classes)
            for kind, alpha in ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix))
            if alpha
        ]

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        kind = self.kinds[int(torch.randint(len(self.kinds), ()))]
        mixed, targets = kind(images.permute(0, 3, 1, 2).float(), labels)
        return mixed.permute(0, 2, 3, 1), targets
