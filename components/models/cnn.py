"""A small plain CNN: the baseline that more elaborate networks are compared with."""

from __future__ import annotations

from torch import nn

from components.records.training import Network

DEFAULT_WIDTH = 32


def build_cnn(network: Network) -> nn.Module:
    """Build five 3x3 convolutions with batch norm and ReLU, and a linear layer.

    The convolutions have w, 2w, 2w, 4w and 4w channels, where w is the width or 32. 2x2 max-pooling
    follows the first and the third, global average pooling the last.

    The network maps `float (N, C, H, W)` of any H, W >= 4 to logits `(N, K)`.
    """
    w = network.width or DEFAULT_WIDTH
    return nn.Sequential(
        *_make_convolution(network.shape[2], w, nn.MaxPool2d(2)),
        *_make_convolution(w, 2 * w),
        *_make_convolution(2 * w, 2 * w, nn.MaxPool2d(2)),
        *_make_convolution(2 * w, 4 * w),
        *_make_convolution(4 * w, 4 * w),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * w, len(network.classes)),
    )


def _make_convolution(inputs: int, outputs: int, *pool: nn.Module) -> list[nn.Module]:
    # Max-pooling and ReLU commute exactly. Pooling first leaves ReLU a quarter of the work.
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        *pool,
        nn.ReLU(inplace=True),
    ]
