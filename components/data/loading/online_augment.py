"""On-line augmentation on the worker: crop, flip and erasing as a single gather; MixUp and CutMix.

The parameters of crop, flip and erasing are drawn for a whole epoch at once from (seed, epoch)
and looked up by the row of an image. The result for an image therefore depends neither on the
number of workers nor on the order in which they process the images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.data.loading.sampling import make_epoch_generator
from components.params import OnlineAugment


class Augmenter:
    """Random crop, flip and erasing of batches, drawn once per epoch for every row.

    A crop pads with zeros, as torchvision's `RandomCrop` does. The erased square may lie partly
    outside the image (Cutout, arXiv:1708.04552).

    Args:
        rows: number of images in the split.
        size: height and width of an image.
        settings: section `augment` of the recipe.
        fill: value of erased pixels, `uint8 (C,)`: the rounded channel means, which are close to
            zero after normalisation.
    """

    def __init__(
        self, rows: int, size: tuple[int, int], settings: OnlineAugment, fill: Tensor
    ) -> None:
        self.rows = rows
        self.size = size
        self.settings = settings
        self.fill = fill
        # The same tensors in all epochs: a CUDA graph reads them at their addresses.
        self.top, self.left, self.erase_y, self.erase_x = (
            torch.zeros(rows, dtype=torch.int64, device=fill.device) for _ in range(4)
        )
        self.flip = torch.zeros(rows, dtype=torch.bool, device=fill.device)

    def begin_epoch(self, seed: int, epoch: int) -> None:
        """Draw the parameters of one epoch for every row."""
        height, width = self.size
        # Drawn on the CPU, so that they are the same on every kind of device.
        generator = make_epoch_generator(seed, epoch, 1)

        def draw_integers(stop: int) -> Tensor:
            return torch.randint(stop, (self.rows,), generator=generator)

        # The order of the draws is part of the reproducible result.
        self.top.copy_(draw_integers(2 * self.settings.crop_padding + 1))
        self.left.copy_(draw_integers(2 * self.settings.crop_padding + 1))
        self.flip.copy_(torch.rand(self.rows, generator=generator) < self.settings.flip)
        self.erase_y.copy_(draw_integers(height))
        self.erase_x.copy_(draw_integers(width))

    def augment(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return the images of `rows`, `uint8 (B, H, W, C)`, augmented for the current epoch.

        Both are on the device of `fill`.
        """
        settings = self.settings
        device = images.device
        height, width = self.size
        if not (settings.crop_padding or settings.flip or settings.erase):
            return images
        if settings.crop_padding:
            images = torch.nn.functional.pad(images, (0, 0) + (settings.crop_padding,) * 4)
        x = torch.arange(width, device=device).expand(len(rows), width)
        x = torch.where(self.flip[rows, None], width - 1 - x, x)
        x = x + self.left[rows, None]
        y = torch.arange(height, device=device) + self.top[rows, None]
        batch = torch.arange(len(rows), device=device)
        images = images[batch[:, None, None], y[:, :, None], x[:, None, :]]
        if settings.erase:
            mask_y = _mask_squares(height, self.erase_y[rows], settings.erase)
            mask_x = _mask_squares(width, self.erase_x[rows], settings.erase)
            mask = mask_y[:, :, None] & mask_x[:, None, :]
            images = torch.where(mask[..., None], self.fill, images)
        return images


def _mask_squares(length: int, centres: Tensor, side: int) -> Tensor:
    """Return a mask `bool (B, length)` of the `side` positions around each centre."""
    positions = torch.arange(length, device=centres.device)
    start = centres[:, None] - side // 2
    return (positions >= start) & (positions < start + side)


class Mixer:
    """MixUp and CutMix of torchvision within a micro-batch.

    With both switched on, each micro-batch draws one of the two. Random numbers come from torch's
    global generator.
    """

    def __init__(self, settings: OnlineAugment, classes: int) -> None:
        # Imported here because torchvision costs seconds, and few trainings mix images.
        from torchvision.transforms import v2

        self.transforms = [
            transform(alpha=alpha, num_classes=classes)
            for transform, alpha in ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix))
            if alpha
        ]

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images `uint8 (B, H, W, C)` with labels `int64 (B,)`.

        Returns:
            images `float (B, H, W, C)` and class probabilities `float (B, K)`.
        """
        transform = self.transforms[int(torch.randint(len(self.transforms), ()))]
        mixed, targets = transform(images.permute(0, 3, 1, 2).float(), labels)
        return mixed.permute(0, 2, 3, 1), targets
