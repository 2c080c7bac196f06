"""Labelled images in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Images:
    """One split. `pixels` are `uint8 (N, H, W, C)`, `labels` `int64 (N,)` indices into the classes, `ids` unique names."""

    pixels: np.ndarray
    labels: np.ndarray
    ids: list[str]

    def __post_init__(self) -> None:
        assert self.pixels.dtype == np.uint8, self.pixels.dtype
        assert self.pixels.ndim == 4, self.pixels.shape
        assert len(self.pixels) == len(self.labels) == len(self.ids)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Images:
        return Images(self.pixels[rows], self.labels[rows], [self.ids[i] for i in rows])

    def slice(self, start: int, stop: int) -> Images:
        return Images(self.pixels[start:stop], self.labels[start:stop], self.ids[start:stop])

    @staticmethod
    def concatenate(parts: Sequence[Images]) -> Images:
        pixels = np.concatenate([part.pixels for part in parts])
        return Images(pixels, np.concatenate([part.labels for part in parts]), [name for part in parts for name in part.ids])
