"""Bringing images to one size."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate

from components.data.images import Images

_AT_ONCE = 1000


def resize(images: Images, size: int | None) -> Images:
    """`images` with height and width `size`, bilinear with antialiasing, rounded; as they are if `size` is None."""
    if size is None or images.pixels.shape[1:3] == (size, size):
        return images
    pixels = np.empty((len(images), size, size, images.pixels.shape[3]), np.uint8)
    for start in range(0, len(images), _AT_ONCE):
        batch = torch.from_numpy(images.pixels[start : start + _AT_ONCE]).permute(0, 3, 1, 2).float()
        scaled = interpolate(batch, (size, size), mode="bilinear", antialias=True).round().clamp(0, 255)
        pixels[start : start + _AT_ONCE] = scaled.to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return Images(pixels, images.labels, images.ids)
