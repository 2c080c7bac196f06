"""Operations on the pixels of a group of images, each image with parameters of its own.

An operation is a function of images `(N, C, H, W)` on any device and of their parameters `float64
(N, P)` on the CPU. It returns new images `(N, C, H', W')`. The values of images are whole numbers
from 0 to 255, in uint8 or float32, whichever is faster. The result for an image does not depend on
the other images of its group, to the bit on a CPU: float arithmetic is split into single products
and sums, which are rounded alike in every loop of torch, and sums over pixels are sums of integers.

Results are those of torchvision.transforms.v2 for one image, with its rounding, up to the last bit
of float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

PixelOperation = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Call:
    """A pixel operation and its parameters for one image."""

    operation: PixelOperation
    values: tuple[float, ...] = ()


def to_column(values: Tensor, images: Tensor) -> Tensor:
    """Return parameters `(N,)` as `float32 (N, 1, 1, 1)` on the device of the images."""
    return values.float().to(images.device, non_blocking=True).view(-1, 1, 1, 1)


def to_levels(images: Tensor) -> Tensor:
    """Cut float values off to whole numbers from 0 to 255, in place."""
    return images.clamp_(0, 255).floor_()


def to_planes(images: Tensor) -> Tensor:
    """Return float32 images whose channels lie one after the other."""
    return images.contiguous().float()
