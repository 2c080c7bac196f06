"""Choice of the stem, the layers at the beginning of a residual network.

This module does not import torch, so that the driver of a training can plan it quickly.
"""

from __future__ import annotations

from typing import Literal

from components.params.base import STEMS, Stem

# Largest shorter side, in pixels, for which `auto` chooses `cifar`.
_MAX_CIFAR_SIDE = 64


def choose_stem(architecture: str, stem: Stem | Literal["auto"], height: int, width: int) -> Stem:
    """Return the stem of a network for images of `height` x `width` pixels.

    Args:
        architecture: key of `components.models.architectures.BUILDERS`.
        stem: choice of the recipe. `auto` is `cifar` for images with a shorter side of up to 64
            pixels and for architectures without the stem `imagenet`, else `imagenet`.
        height: height of an image.
        width: width of an image.
    """
    if stem != "auto":
        return stem
    large = min(height, width) > _MAX_CIFAR_SIDE
    return "imagenet" if large and "imagenet" in STEMS.get(architecture, ()) else "cifar"
