"""Labelled images in memory."""

from __future__ import annotations

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
