"""Pixel operations that move pixels: flips, crops, scaling, affine transforms, and erasing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from components.data.loading.policy.calls import to_column, to_levels, to_planes


def flip_horizontally(images: Tensor, _values: Tensor) -> Tensor:
    """Mirror left to right."""
    return images.flip(3)


def flip_vertically(images: Tensor, _values: Tensor) -> Tensor:
    """Mirror top to bottom."""
    return images.flip(2)


def crop_padded(images: Tensor, values: Tensor) -> Tensor:
    """Cut a window of the images' size out of zeros around them.

    Parameters: top and left of the window, relative to the image, in pixels.
    """
    height, width = images.shape[2:]
    offsets = values.long().to(images.device, non_blocking=True)
    y = torch.arange(height, device=images.device) + offsets[:, :1]
    x = torch.arange(width, device=images.device) + offsets[:, 1:]
    inside_y = (y >= 0) & (y < height)
    inside_x = (x >= 0) & (x < width)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    rows = y.clamp(0, height - 1)[:, :, None]
    columns = x.clamp(0, width - 1)[:, None, :]
    windows = images.permute(0, 2, 3, 1)[batch, rows, columns].permute(0, 3, 1, 2)
    return windows * (inside_y[:, None, :, None] & inside_x[:, None, None, :])


def crop_resized(images: Tensor, values: Tensor) -> Tensor:
    """Cut out rectangles and scale them, bilinear and antialiased.

    Parameters: top, left, height and width of the rectangle; height and width of the result. The
    last two are the same for all images.
    """
    # Rectangles differ in size, and torch resizes one size at a time.
    resized = []
    for image, box in zip(images.split(1), values.long().tolist(), strict=True):
        top, left, height, width, *size = box
        resized.append(resize(image[:, :, top : top + height, left : left + width], size))
    return torch.cat(resized)


def resize(images: Tensor, size: list[int]) -> Tensor:
    """Scale images `(N, C, H, W)` to a height and a width, bilinear and antialiased."""
    if list(images.shape[2:]) == size:
        return images
    # torch resizes uint8 on a CPU only, and in this layout fastest.
    on_cpu = images.device.type == "cpu"
    source = images.to(torch.uint8 if on_cpu else torch.float32)
    source = source.contiguous(memory_format=torch.channels_last)
    scaled = F.interpolate(source, size, mode="bilinear", align_corners=False, antialias=True)
    return scaled if on_cpu else to_levels(scaled.round_())


def _transform(images: Tensor, values: Tensor, mode: str) -> Tensor:
    height, width = images.shape[2:]
    # Positions are relative to the centre; `grid_sample` counts them in half sides.
    half = torch.tensor([width, width, width, height, height, height], dtype=torch.float64) / 2
    matrices = (values / half).float().to(images.device, non_blocking=True)
    a, b, c, d, e, f = (column.view(-1, 1, 1) for column in matrices.unbind(1))
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    grid = torch.stack([a * x + b * y + c, d * x + e * y + f], 3)
    sampled = F.grid_sample(to_planes(images), grid, mode, align_corners=False)
    return to_levels(sampled.round_())


def transform_bilinear(images: Tensor, values: Tensor) -> Tensor:
    """Apply an affine transform with bilinear interpolation; outside of the image is zero.

    Parameters: the matrix a, b, c, d, e, f, by which the pixel (x, y) of the result is read from
    (a x + b y + c, d x + e y + f), in pixels from the centre of the image.
    """
    return _transform(images, values, "bilinear")


def transform_nearest(images: Tensor, values: Tensor) -> Tensor:
    """Apply an affine transform as `transform_bilinear` does, but take the nearest pixel."""
    return _transform(images, values, "nearest")


def erase(images: Tensor, values: Tensor) -> Tensor:
    """Set a rectangle to zero. Parameters: its top, left, height and width."""
    top, left, height, width = (to_column(value, images) for value in values.unbind(1))
    y = torch.arange(images.shape[2], device=images.device).view(1, 1, -1, 1)
    x = torch.arange(images.shape[3], device=images.device).view(1, 1, 1, -1)
    inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    return images * ~inside
