"""A small vision transformer on the features of a convolutional stem."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from components.errors import UserError
from components.records.training import Network

DEFAULT_WIDTH = 96
DEPTH = 4
HEADS = 4
MIN_SIDE = 8
"""Shortest side, in pixels, of the images that the network takes."""

# Attention compares all pairs of patches, so that the stem shrinks large images more.
_MAX_PATCHES_PER_SIDE = 16


class EncoderBlock(nn.Module):
    """Self-attention and a two-layer perceptron, each after a layer norm and with a shortcut.

    It computes what `nn.TransformerEncoderLayer(norm_first=True, activation="gelu")` does. That one
    takes a fused path outside training whose logits differ in the last bits from those of its
    exported program, which Kiln compares. `scaled_dot_product_attention` is not deterministic on a
    GPU when torch only warns of such operations, as Kiln sets it there.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map patches `(N, T, width)` to the same shape."""
        x = x + self._attend(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y

    def _attend(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)  # each (N, heads, T, width / heads)
        scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        mixed: Tensor = self.projection((scores.softmax(3) @ value).transpose(1, 2).flatten(2))
        return mixed


class AttentionNet(nn.Module):
    """A convolutional stem, self-attention over its patches, and a linear layer on their mean."""

    def __init__(self, stem: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.Sequential(*(EncoderBlock(width) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        _, width, rows, columns = x.shape
        x = x.flatten(2).transpose(1, 2) + encode_positions(rows, columns, width, x.device)
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits


def build_attention(network: Network) -> nn.Module:
    """Build a vision transformer with a convolutional stem (arXiv:2106.14881).

    The stem halves height and width by 3x3 convolutions with batch norm, twice or as often as it
    takes to leave at most 16x16 patches. Four encoder blocks with four heads follow. As in
    arXiv:2205.01580, positions are encoded by sines and cosines, and the patches are averaged.
    Patches have `width` or 96 channels; the convolutions before the last have half of them.

    For 28x28x1 and ten classes it has
    432 + 96 + 41,472 + 192 + 4 * 74,784 + 192 + 970 = 342,490 parameters.

    The network maps `float (N, C, H, W)` of any H, W >= 8 to logits `(N, K)`. Its weights fit all
    of these sizes.

    Raises:
        UserError: The images are too small, or the width is not a multiple of 4.
    """
    height, columns, _ = network.shape
    width = network.width or DEFAULT_WIDTH
    if min(height, columns) < MIN_SIDE:
        raise UserError(
            f"attention does not take images of {height} x {columns} pixels: both sides need at "
            f"least {MIN_SIDE}; set preprocess.image_size, or choose cnn"
        )
    if width % 4:
        raise UserError(
            f"attention cannot have the width {width}: it must be a multiple of 4, such as "
            f"{width - width % 4} or {width - width % 4 + 4}"
        )
    return AttentionNet(_make_stem(network, width), width, len(network.classes))


def _make_stem(network: Network, width: int) -> nn.Sequential:
    """Return convolutions that map `(N, C, H, W)` to patches `(N, width, rows, columns)`."""
    height, columns, channels = network.shape
    halvings = 2
    while max(height, columns) > _MAX_PATCHES_PER_SIDE << halvings:
        halvings += 1
    sizes = [channels, *[width // 2] * (halvings - 1), width]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers[:-1])


def encode_positions(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Return encodings `(rows * columns, width)` of the positions in a grid, row by row.

    Half of the channels encode the row and half the column, by sines and cosines of `width / 4`
    frequencies between 1 and 1/10,000 (arXiv:1706.03762, section 3.5).
    """
    exponents = torch.arange(width // 4, device=device) / (width // 4)
    frequencies = 10_000.0**-exponents

    def encode(length: int) -> Tensor:
        angles = torch.arange(length, device=device)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)

    by_row = encode(rows).repeat_interleave(columns, 0)
    by_column = encode(columns).repeat(rows, 1)
    return torch.cat([by_row, by_column], 1)
