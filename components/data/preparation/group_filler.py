"""Assignment of units of several images, such as all images of a patient, to val and test."""

from __future__ import annotations

import numpy as np

from components.data.preparation.quotas import TEST, TRAIN, VAL
from components.data.preparation.units import Units

# Rounds of adding and returning units. They end earlier when nothing changes.
_MAX_ROUNDS = 3


class GroupFiller:
    """Puts units of several images into validation and test, one split at a time.

    Finding the best set of units is a knapsack problem. This is a greedy search in the order of
    the units' numbers, so that few units move when others are added.

    Lists replace arrays in the loops, because there are many units of few classes each.
    """

    def __init__(self, units: Units, quotas: np.ndarray, splits: np.ndarray) -> None:
        """Start with all units in train.

        Args:
            units: Units to assign. Those of one image stay in train.
            quotas: Number of images of each class to put into each split, `int (classes, 3)`.
            splits: Split of each unit, `int8 (U,)`; modified in place.
        """
        self.units = units
        self.quotas = quotas
        self.splits = splits
        self.order = np.argsort(units.draws, kind="stable")
        self.order = self.order[units.sizes[self.order] > 1]
        cells = zip(units.cell_classes.tolist(), units.cell_counts.tolist(), strict=True)
        self.cells = list(cells)
        self.starts = units.starts.tolist()
        self.weights = (1 / np.maximum(quotas.sum(axis=1), 1)).tolist()
        self.num_units = units.count_units(np.ones(len(splits), bool))
        # Units of each class in train.
        self.left = self.num_units.tolist()

    def fill(self, split: int, share: float, num_splits_after: int) -> None:
        """Put units into a split until images by themselves can fill the rest of its quotas.

        First the units whose numbers lie in the zone of the split, as far as they fit. If images
        by themselves are too few for the rest, further units that fit. Then units are added that
        exceed a quota but bring the split nearer to its quotas, and returned likewise.

        Args:
            split: Split to fill, VAL or TEST.
            share: Share of the images to put into it: the size of its zone.
            num_splits_after: Number of splits that need a unit of each class afterwards.
        """
        self.room = self.quotas[:, split].tolist()
        self.spare = self._count_spare(split).tolist()
        self.reserve = np.clip(self.num_units - 1, 1, num_splits_after).tolist()
        order = self.order if split == TEST else self.order[::-1]
        draws = self.units.draws[order]
        in_zone = draws < share if split == TEST else draws >= 1 - share
        for unit in order[in_zone & (self.splits[order] == TRAIN)].tolist():
            if self._fits(unit):
                self._take(unit, split)
        for unit in self._list_needed(order):
            if self._is_needed(unit) and self._fits(unit):
                self._take(unit, split)
        for _ in range(_MAX_ROUNDS):
            changes = self._add_by_gain(order, split) + self._return_by_gain(order, split)
            if not changes:
                break

    def _add_by_gain(self, order: np.ndarray, split: int) -> int:
        """Add the units that bring the split nearer to its quotas; return their number."""
        added = 0
        # A stable sort: units of equal gain stay in order.
        for unit in sorted(self._list_needed(order), key=self._compute_gain, reverse=True):
            if self._keeps_reserve(unit) and self._compute_gain(unit) > 0:
                self._take(unit, split)
                added += 1
        return added

    def _return_by_gain(self, order: np.ndarray, split: int) -> int:
        """Return to train the units that are better out of the split; return their number."""
        returned = 0
        for unit in order[self.splits[order] == split][::-1].tolist():
            if self._compute_gain(unit, sign=-1) > 0:
                self._take(unit, TRAIN, sign=-1)
                returned += 1
        return returned

    def _count_spare(self, split: int) -> np.ndarray:
        """Return the number of images of each class that can do without units of several images.

        It is the number of images by themselves, divided between the splits that are not filled
        yet, but not more than the quota.
        """
        singles = self.units.num_singles
        own = self.quotas[:, split]
        if split == VAL:
            in_test = self.units.count_images(self.splits)[:, TEST]
            due = np.maximum(self.quotas[:, TEST] - in_test, 0)
            spare: np.ndarray = np.clip(singles - due, 0, own)
            return spare
        both = self.quotas[:, VAL] + self.quotas[:, TEST]
        part = singles * own // np.maximum(both, 1)
        spare = np.where(singles > both, own, np.minimum(part, own))
        return spare

    def _list_needed(self, order: np.ndarray) -> list[int]:
        """Return the units in train of the classes that need further units, in order."""
        need = np.array(self.room) > np.array(self.spare)
        needed = np.zeros(len(self.splits), bool)
        needed[self.units.cell_units[need[self.units.cell_classes]]] = True
        needed &= self.splits == TRAIN
        units: list[int] = order[needed[order]].tolist()
        return units

    def _get_cells(self, unit: int) -> list[tuple[int, int]]:
        """Return the classes of a unit, and its number of images of each."""
        return self.cells[self.starts[unit] : self.starts[unit + 1]]

    def _is_needed(self, unit: int) -> bool:
        return any(self.room[label] > self.spare[label] for label, _ in self._get_cells(unit))

    def _keeps_reserve(self, unit: int) -> bool:
        return all(self.left[label] > self.reserve[label] for label, _ in self._get_cells(unit))

    def _fits(self, unit: int) -> bool:
        within = all(count <= self.room[label] for label, count in self._get_cells(unit))
        return within and self._keeps_reserve(unit)

    def _take(self, unit: int, split: int, sign: int = 1) -> None:
        """Put a unit into the split, or with a sign of -1 back into train."""
        self.splits[unit] = split
        for label, count in self._get_cells(unit):
            self.room[label] -= sign * count
            self.left[label] -= sign

    def _compute_gain(self, unit: int, sign: int = 1) -> float:
        """Return how much nearer to its quotas a unit brings the split; its return with sign -1.

        The distance is the sum of squares over classes, each relative to the size of the class.
        """
        gain = 0.0
        for label, count in self._get_cells(unit):
            room = self.room[label]
            spare = self.spare[label]
            before = _measure_distance(room, spare)
            after = _measure_distance(room - sign * count, spare)
            gain += self.weights[label] * (before**2 - after**2)
        return gain


def _measure_distance(room: int, spare: int) -> int:
    """Return the number of images too few (if images by themselves fill `spare`) or too many."""
    return -room if room < 0 else max(room - spare, 0)
