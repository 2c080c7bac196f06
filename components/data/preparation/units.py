"""Units of a split: images that stay together, and the number of images of each class in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class RowsByUnit:
    """Rows of the images sorted by unit: `order[starts[u] : starts[u] + sizes[u]]` of unit `u`."""

    order: np.ndarray
    sizes: np.ndarray

    @classmethod
    def sort(cls, units: np.ndarray) -> RowsByUnit:
        """Sort the rows, given the unit of each."""
        order = np.argsort(units, kind="stable")
        starts = np.flatnonzero(np.diff(units[order], prepend=np.nan if len(order) else 0))
        return cls(order, np.diff(starts, append=len(order)))

    @property
    def starts(self) -> np.ndarray:
        """Position in `order` of the first row of each unit, `int64 (U,)`."""
        starts: np.ndarray = np.cumsum(self.sizes) - self.sizes
        return starts

    def select(self, mask: np.ndarray) -> RowsByUnit:
        """Return the masked units only."""
        return RowsByUnit(self.order[np.repeat(mask, self.sizes)], self.sizes[mask])

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Return the value of each row's unit, given one value per unit."""
        spread = np.empty(len(self.order), values.dtype)
        spread[self.order] = np.repeat(values, self.sizes)
        return spread

    def __iter__(self) -> Iterator[list[int]]:
        rows = self.order.tolist()
        for start, size in zip(self.starts.tolist(), self.sizes.tolist(), strict=True):
            yield rows[start : start + size]


@dataclass(frozen=True)
class Units:
    """Units to assign to splits.

    The arrays of cells have an entry per pair of a unit and a class that it has images of, sorted
    by unit.
    """

    draws: np.ndarray
    """A number in [0, 1) per unit, `float (U,)`. Low ones go to the test, high ones to
    validation."""
    num_classes: int
    cell_units: np.ndarray
    cell_classes: np.ndarray
    cell_counts: np.ndarray

    @classmethod
    def count(
        cls, draws: np.ndarray, units: np.ndarray, labels: np.ndarray, num_classes: int
    ) -> Units:
        """Count the images, given the unit and the class of each, `int (N,)`."""
        cells, counts = np.unique(units * num_classes + labels, return_counts=True)
        return cls(draws, num_classes, cells // num_classes, cells % num_classes, counts)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of images of each unit, `int64 (U,)`."""
        sizes = np.bincount(self.cell_units, self.cell_counts, len(self.draws))
        return sizes.astype(np.int64)

    @cached_property
    def num_singles(self) -> np.ndarray:
        """Number of units of one image, by class, `int64 (classes,)`."""
        single = self.sizes[self.cell_units] == 1
        return np.bincount(self.cell_classes[single], minlength=self.num_classes)

    @cached_property
    def starts(self) -> np.ndarray:
        """First cell of each unit, and the number of cells, `int64 (U + 1,)`."""
        return np.searchsorted(self.cell_units, np.arange(len(self.draws) + 1))

    def get_cells(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes of a unit, and its number of images of each."""
        cells = slice(self.starts[unit], self.starts[unit + 1])
        return self.cell_classes[cells], self.cell_counts[cells]

    def count_units(self, mask: np.ndarray) -> np.ndarray:
        """Return the number of units of each class among the masked ones, `int64 (classes,)`."""
        cells = self.cell_classes[mask[self.cell_units]]
        return np.bincount(cells, minlength=self.num_classes)

    def count_images(self, splits: np.ndarray) -> np.ndarray:
        """Return the number of images per class and split, `int64 (classes, 3)`.

        Args:
            splits: Split of each unit, `int (U,)`.
        """
        cells = self.cell_classes * 3 + splits[self.cell_units]
        counts = np.bincount(cells, self.cell_counts, 3 * self.num_classes)
        return counts.astype(np.int64).reshape(-1, 3)
