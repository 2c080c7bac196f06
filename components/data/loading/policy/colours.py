"""Pixel operations that change values: brightness, colours, histograms, sharpness."""

from __future__ import annotations

import torch
from torch import Tensor

from components.data.loading.policy.calls import to_column, to_levels, to_planes

# Weights of red, green and blue in a grey value (ITU-R 601), as torchvision rounds them.
_GREY = (0.2989, 0.587, 0.114)
# torchvision scales 0 to 1 by this number before it cuts off decimals.
_TO_LEVELS = 255.999


def invert(images: Tensor, _values: Tensor) -> Tensor:
    """Replace each value x by 255 - x."""
    return 255 - images


def adjust_brightness(images: Tensor, values: Tensor) -> Tensor:
    """Multiply by a factor, the parameter."""
    return to_levels(to_planes(images) * to_column(values[:, 0], images))


def _to_grey(images: Tensor) -> Tensor:
    """Return grey values `float32 (N, 1, H, W)`, whole numbers, of `to_planes`."""
    if images.shape[1] == 1:
        return images
    red, green, blue = (images[:, c : c + 1] * _GREY[c] for c in range(3))
    return red.add_(green).add_(blue).floor_()


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    return to_levels(
        (images * to_column(factors, images)).add_(others * to_column(1 - factors, images))
    )


def adjust_contrast(images: Tensor, values: Tensor) -> Tensor:
    """Multiply the distance from the mean grey value by a factor, the parameter."""
    images = to_planes(images)
    # An exact sum, whatever the order of its terms.
    mean = _to_grey(images).sum((1, 2, 3), dtype=torch.float64) / images[0, 0].numel()
    return _blend(images, mean.float().view(-1, 1, 1, 1), values[:, 0])


def adjust_saturation(images: Tensor, values: Tensor) -> Tensor:
    """Multiply the distance from the pixel's grey value by a factor, the parameter."""
    if images.shape[1] == 1:
        return images
    images = to_planes(images)
    return _blend(images, _to_grey(images), values[:, 0])


def adjust_hue(images: Tensor, values: Tensor) -> Tensor:
    """Rotate the colour circle. Parameter: the angle as a fraction of the circle.

    Keeps the largest and the smallest of a pixel's three values, as a rotation in HSV does
    (https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative).
    """
    if images.shape[1] == 1:
        return images
    planes = to_planes(images)
    red, green, blue = planes.split(1, 1)
    smallest = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.maximum(torch.maximum(red, green), blue).sub_(smallest)
    red, green, blue = (planes - smallest).div_(chroma.clamp(min=1)).split(1, 1)
    # 1 where a channel is the largest, else 0. `torch.where` would take 20 times as long.
    red_is_largest = red.floor()
    green_is_largest = (1 - red_is_largest).mul_(green.floor())
    blue_is_largest = 1 - red_is_largest - green_is_largest
    hue = (green - blue).mul_(red_is_largest)
    hue += (blue - red).add_(2).mul_(green_is_largest)
    hue += (red - green).add_(4).mul_(blue_is_largest)
    hue += to_column(6 * values[:, 0], images)
    hue -= (hue / 6).floor_().mul_(6)
    # Each channel is largest around its own sixth of the circle, and smallest opposite to it.
    shares = (
        (hue - 3).abs_().sub_(1),
        2 - (hue - 2).abs_(),
        2 - (hue - 4).abs_(),
    )
    rotated = torch.cat(shares, 1).clamp_(0, 1).mul_(chroma).add_(smallest)
    return to_levels(rotated.mul_(_TO_LEVELS / 255))


def adjust_sharpness(images: Tensor, values: Tensor) -> Tensor:
    """Multiply the distance from the smoothed image by a factor, the parameter.

    The image is smoothed by (1 1 1, 1 5 1, 1 1 1) / 13. Its outermost pixels stay as they are.
    """
    if min(images.shape[2:]) < 3:
        return images
    source = to_planes(images)
    height, width = images.shape[2:]
    inner = source[:, :, 1:-1, 1:-1]
    smooth = 4 * inner
    for top in range(3):
        for left in range(3):
            smooth += source[:, :, top : top + height - 2, left : left + width - 2]
    smooth = smooth.div_(13).round_()
    # In one product, as torchvision does it: the sum of two would be cut off one level lower where
    # both images agree.
    sharpened = smooth.sub_(inner).mul_(to_column(1 - values[:, 0], images)).add_(inner)
    out = source.clone()
    out[:, :, 1:-1, 1:-1] = to_levels(sharpened)
    return out


def posterize(images: Tensor, values: Tensor) -> Tensor:
    """Keep the leading bits of each value. Parameter: their number, 1 to 8."""
    masks = 256 - 2 ** (8 - values[:, 0].long())
    return images.to(torch.uint8) & masks.to(torch.uint8).to(images.device).view(-1, 1, 1, 1)


def solarize(images: Tensor, values: Tensor) -> Tensor:
    """Invert the values from a threshold on, the parameter."""
    return torch.where(images >= to_column(values[:, 0], images), 255 - images, images)


def stretch_contrast(images: Tensor, _values: Tensor) -> Tensor:
    """Stretch the values of each channel to 0 to 255. A constant channel stays as it is."""
    smallest = images.amin((2, 3), keepdim=True).float()
    scale = (images.amax((2, 3), keepdim=True).float() - smallest).mul_(1 / 255)
    constant = scale == 0
    smallest = torch.where(constant, 0.0, smallest)
    scale = torch.where(constant, 1.0, scale)
    return to_levels((images - smallest).div_(scale))


def equalize(images: Tensor, _values: Tensor) -> Tensor:
    """Equalize the histogram of each channel, as `PIL.ImageOps.equalize` does."""
    count, channels, height, width = images.shape
    values = images.reshape(count * channels, height * width).long()
    offsets = 256 * torch.arange(len(values), device=images.device)[:, None]
    histogram = torch.bincount((values + offsets).flatten(), minlength=256 * len(values))
    histogram = histogram.view(-1, 256)
    largest = images.amax((2, 3)).view(-1, 1).long()
    step = (height * width - histogram.gather(1, largest)) // 255
    below = histogram.cumsum(1) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    identity = torch.arange(256, device=images.device)
    table = torch.where(step > 0, table, identity).to(torch.uint8)
    return table.gather(1, values).view_as(images)
