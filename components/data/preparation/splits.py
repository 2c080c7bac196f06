"""Assignment of images to the splits train, val and test.

Splits are drawn per class. The images of a class are ordered by a hash of the seed and of the
digest of their pixels (or of the name of their group). The first of this order are for the test and
the last for validation, as many as the exact shares ask for. An added image therefore moves other
images only across one of the two borders, and by about as many places as the shares ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from components.data.preparation.group_filler import GroupFiller
from components.data.preparation.quotas import (
    TEST,
    TRAIN,
    VAL,
    compute_asked,
    compute_quotas,
    draw,
)
from components.data.preparation.units import RowsByUnit, Units
from components.data.sources.base import NO_SPLIT, SPLITS
from components.errors import UserError


@dataclass(frozen=True)
class SplitRequest:
    """The images to draw splits of, and the shares to draw."""

    drawable: np.ndarray
    """Mask of the images whose split is drawn, `bool (N,)`."""
    val_share: float
    """Share to draw for validation; 0 if the source provides that split."""
    test_share: float
    """Share to draw for the test; 0 if the source provides that split."""

    @classmethod
    def make(
        cls, source_splits: np.ndarray, val_fraction: float, test_fraction: float
    ) -> SplitRequest:
        """Find out what the source leaves open.

        If the source assigns every image but provides no validation or no test split, the missing
        ones are drawn from its training split.
        """
        provided = [bool((source_splits == split).any()) for split in range(len(SPLITS))]
        drawable = source_splits == NO_SPLIT
        if not drawable.any() and not (provided[VAL] and provided[TEST]):
            drawable = source_splits == TRAIN
        return cls(
            drawable=drawable,
            val_share=0.0 if provided[VAL] else val_fraction,
            test_share=0.0 if provided[TEST] else test_fraction,
        )


@dataclass(frozen=True)
class SplitInput:
    """Images to assign to splits."""

    source_splits: np.ndarray
    """The source's split of each image, `int (N,)`; NO_SPLIT if it assigns none."""
    labels: np.ndarray
    """Index into `classes` of each image, `int (N,)`."""
    classes: Sequence[str]
    """Names of the classes."""
    units: np.ndarray
    """Any integer per image, `int (N,)`; equal for images that must stay together."""
    key: Callable[[int], bytes]
    """Returns the bytes that an image is drawn by, given its row."""


@dataclass(frozen=True)
class SplitAssignment:
    """The split of each image."""

    splits: np.ndarray
    """Index into SPLITS, `int8 (N,)`."""
    missed: np.ndarray
    """Mask of the classes whose drawn shares are more than one image off, because images stay
    together, `bool (classes,)`."""


def assign_splits(
    images: SplitInput, val_fraction: float, test_fraction: float, seed: int
) -> SplitAssignment:
    """Assign each image to a split.

    Splits that the source assigns stay. The other images are drawn, but never into a validation or
    test split that the source provides. See `SplitRequest.make`.

    All images of a unit get the same split: the one that the source assigns to some of them, or
    the one drawn with the smallest of their keys.

    Args:
        val_fraction: Share to draw for validation.
        test_fraction: Share to draw for the test.
        seed: Seed of the draw.

    Raises:
        UserError: the source puts images of one unit into several splits.
    """
    request = SplitRequest.make(images.source_splits, val_fraction, test_fraction)
    rows = RowsByUnit.sort(images.units)
    unit_splits = _find_unit_splits(images.source_splits, request.drawable, rows)
    free = unit_splits == NO_SPLIT
    pool = _count_units(images, rows.select(free), seed)
    names = [name.encode("utf-8", "surrogateescape") for name in images.classes]
    offsets = np.array([draw(name, seed) for name in names])
    unit_splits[free], missed = _draw_splits(pool, offsets, request)
    splits = np.where(request.drawable, rows.spread(unit_splits), images.source_splits)
    return SplitAssignment(splits.astype(np.int8), missed)


def _count_units(images: SplitInput, rows: RowsByUnit, seed: int) -> Units:
    """Return the units of some rows, each with the number drawn by its smallest key."""
    return Units.count(
        draws=np.array([draw(min(map(images.key, unit)), seed) for unit in rows], float),
        units=np.repeat(np.arange(len(rows.sizes)), rows.sizes),
        labels=images.labels[rows.order],
        num_classes=len(images.classes),
    )


def _find_unit_splits(
    source_splits: np.ndarray, drawable: np.ndarray, rows: RowsByUnit
) -> np.ndarray:
    """Return the split that the source assigns to each unit, NO_SPLIT if it assigns none.

    Raises:
        UserError: it assigns several to one unit.
    """
    lows = np.where(drawable, len(SPLITS), source_splits)[rows.order]
    highs = np.where(drawable, NO_SPLIT, source_splits)[rows.order]
    lowest = np.minimum.reduceat(lows, rows.starts)
    highest = np.maximum.reduceat(highs, rows.starts)
    conflicts = np.flatnonzero((highest != NO_SPLIT) & (lowest != highest))
    if len(conflicts):
        both = f"{SPLITS[lowest[conflicts[0]]]} and {SPLITS[highest[conflicts[0]]]}"
        raise UserError(
            f"the source puts images of one group into {both}; a group belongs to one split"
        )
    return highest


def _draw_splits(
    pool: Units, offsets: np.ndarray, request: SplitRequest
) -> tuple[np.ndarray, np.ndarray]:
    """Return the split of each unit, `int8 (U,)`, and the mask of classes that miss their shares.

    Units of several images come first; images by themselves then fill what is left.
    """
    splits = np.full(len(pool.draws), TRAIN, np.int8)
    counts = pool.count_images(splits)[:, TRAIN]
    shares = (request.val_share, request.test_share)
    quotas = compute_quotas(counts, offsets, *shares)
    if (pool.sizes > 1).any():
        filler = GroupFiller(pool, quotas, splits)
        if request.test_share:
            filler.fill(TEST, request.test_share, num_splits_after=2 if request.val_share else 1)
        if request.val_share:
            filler.fill(VAL, request.val_share, num_splits_after=1)
    _assign_singles(pool, quotas, splits)
    _add_missing_classes(pool, quotas, splits)
    result = pool.count_images(splits)
    far = np.abs(result - compute_asked(counts, *shares)) > 1
    return splits, (far & (result != quotas)).any(axis=1)


def _assign_singles(pool: Units, quotas: np.ndarray, splits: np.ndarray) -> None:
    """Fill the quotas with units of one image.

    The first of a class go to the test and the last to validation. Growing from opposite ends, the
    two splits exchange images with train only.
    """
    lacking = np.maximum(quotas - pool.count_images(splits), 0)
    in_train = pool.count_units((pool.sizes > 1) & (splits == TRAIN))
    # One image stays in train if the class has nothing else there.
    available = np.maximum(pool.num_singles - (in_train == 0), 0)
    to_test = lacking[:, TEST]
    both = np.maximum(to_test + lacking[:, VAL], 1)
    # If the images do not suffice, both splits get a part of what they lack, the test at least one.
    part = np.minimum(np.maximum(available * to_test // both, 1), to_test)
    to_test = np.where(both > available, np.minimum(part, available), to_test)
    to_val = np.minimum(lacking[:, VAL], available - to_test)

    single = np.flatnonzero(pool.sizes[pool.cell_units] == 1)
    order = np.lexsort((pool.draws[pool.cell_units[single]], pool.cell_classes[single]))
    units = pool.cell_units[single][order]
    labels = pool.cell_classes[single][order]
    first = np.cumsum(pool.num_singles) - pool.num_singles
    rank = np.arange(len(units)) - first[labels]
    splits[units[rank < to_test[labels]]] = TEST
    splits[units[rank >= (pool.num_singles - to_val)[labels]]] = VAL


def _add_missing_classes(pool: Units, quotas: np.ndarray, splits: np.ndarray) -> None:
    """Move units from train, so that classes are in the splits in which they have a quota.

    Of the units of a missing class, the one that brings the split nearest to its quotas is moved,
    if each of its classes keeps another in train.
    """
    counts = pool.count_images(splits)
    missing = np.argwhere((quotas > 0) & (counts == 0) & (np.arange(len(SPLITS)) != TRAIN))
    if not len(missing):
        return
    by_class = np.argsort(pool.cell_classes, kind="stable")
    bounds = np.searchsorted(pool.cell_classes[by_class], np.arange(pool.num_classes + 1))
    left = pool.count_units(splits == TRAIN)
    for label, split in missing.tolist():
        if counts[label, split]:
            continue  # an earlier unit brought this class too
        best = (np.inf, 0.0, -1)
        for unit in pool.cell_units[by_class[bounds[label] : bounds[label + 1]]].tolist():
            classes, images = pool.get_cells(unit)
            if splits[unit] == TRAIN and (left[classes] > 1).all():
                excess = counts[classes, split] - quotas[classes, split]
                change = (excess + images) ** 2 - excess**2
                cost = float((change / quotas[classes].sum(axis=1)).sum())
                best = min(best, (cost, float(pool.draws[unit]), unit))
        unit = best[2]
        if unit >= 0:
            classes, images = pool.get_cells(unit)
            splits[unit] = split
            counts[classes, split] += images
            left[classes] -= 1
