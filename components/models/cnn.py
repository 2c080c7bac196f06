"""A small plain CNN: the baseline that a more elaborate network has to beat."""

from __future__ import annotations

from torch import nn

WIDTH = 32


def _conv(inputs: int, outputs: int, *pool: nn.Module) -> list[nn.Module]:
    # The maximum of what ReLU lets through is what ReLU lets through of the maximum: a quarter of the work, to the bit.
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), *pool, nn.ReLU(inplace=True)]


def build(channels: int, classes: int, width: int | None) -> nn.Module:
    """Five 3x3 convolutions (w, 2w, 2w, 4w, 4w channels) with batch norm and ReLU, pooled after the first, third and last.

    Maps `float (N, channels, H, W)` of any H, W >= 4 to logits `(N, classes)`.
    """
    w = width or WIDTH
    return nn.Sequential(
        *_conv(channels, w, nn.MaxPool2d(2)),
        *_conv(w, 2 * w),
        *_conv(2 * w, 2 * w, nn.MaxPool2d(2)),
        *_conv(2 * w, 4 * w),
        *_conv(4 * w, 4 * w),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * w, classes),
    )
