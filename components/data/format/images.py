"""Labelled images in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Images:
    """Images with their labels and ids.

    `pixels` is `uint8 (N, H, W, C)`. `labels` is `int64 (N,)` and holds indices into the list of
    classes. `ids` are unique names.
    """

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
        """Return copies of the images at these indices, in their order."""
        return Images(self.pixels[rows], self.labels[rows], [self.ids[row] for row in rows])

    def slice(self, start: int, stop: int) -> Images:
        """Return views of the images from `start` up to `stop`, exclusive."""
        return Images(self.pixels[start:stop], self.labels[start:stop], self.ids[start:stop])

    @staticmethod
    def concatenate(parts: Sequence[Images]) -> Images:
        """Return the images of all parts, in order; there must be at least one part."""
        return Images(
            np.concatenate([part.pixels for part in parts]),
            np.concatenate([part.labels for part in parts]),
            [image_id for part in parts for image_id in part.ids],
        )
