"""Assignment of images to the splits train, val and test.

The split of an image depends only on the seed and on the digest of its pixels (or the name of its
group). Adding images therefore moves no other image. In return, the sizes of the splits match the
configured fractions only approximately.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from components.data.sources.base import NO_SPLIT, SPLITS
from components.errors import UserError

TRAIN, VAL, TEST = range(len(SPLITS))


def draw(key: bytes, seed: int) -> float:
    """Return a number in [0, 1) that depends only on `key` and `seed`."""
    salt = seed.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, salt=salt).digest()) / 2**64


def assign_splits(
    source_splits: np.ndarray,
    units: np.ndarray,
    key: Callable[[int], bytes],
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> np.ndarray:
    """Return the split of each image, `int8 (N,)` of indices into `SPLITS`.

    Splits that the source assigns stay. The other images are drawn, but never into a validation or
    test split that the source provides. If the source assigns every image but provides no
    validation or no test split, the missing ones are drawn from its training split.

    All images of a unit get the same split: the one that the source assigns to some of them, or
    the one drawn with the smallest of their keys.

    Args:
        source_splits: The source's split of each image, `int (N,)`; NO_SPLIT if it assigns none.
        units: Any integer per image, `int (N,)`; equal for images that must stay together.
        key: Returns the bytes that an image is drawn by, given its row.
        val_fraction: Share to draw for validation.
        test_fraction: Share to draw for the test.
        seed: Seed of the draw.

    Raises:
        UserError: the source puts images of one unit into several splits, or a split is empty.
    """
    provided = [bool((source_splits == split).any()) for split in range(len(SPLITS))]
    drawable = source_splits == NO_SPLIT
    if not drawable.any() and not (provided[VAL] and provided[TEST]):
        drawable = source_splits == TRAIN
    test_share = 0.0 if provided[TEST] else test_fraction
    val_share = 0.0 if provided[VAL] else val_fraction

    # Rows sorted by unit: a unit is a range of `order`, from its start to its end.
    order = np.argsort(units, kind="stable")
    starts = np.flatnonzero(np.diff(units[order], prepend=np.nan if len(order) else 0))
    ends = np.append(starts[1:], len(order))
    unit_splits = _find_unit_splits(source_splits, drawable, order, starts)
    for unit in np.flatnonzero(unit_splits == NO_SPLIT):
        number = draw(min(key(row) for row in order[starts[unit] : ends[unit]]), seed)
        if number < test_share:
            unit_splits[unit] = TEST
        elif number < test_share + val_share:
            unit_splits[unit] = VAL
        else:
            unit_splits[unit] = TRAIN

    drawn = np.empty(len(order), np.int8)
    drawn[order] = np.repeat(unit_splits, ends - starts)
    splits = np.where(drawable, drawn, source_splits).astype(np.int8)
    empty = [name for split, name in enumerate(SPLITS) if not (splits == split).any()]
    if empty:
        raise UserError(
            f"no image of {len(splits):,} falls into {' and '.join(empty)}: raise "
            "preprocess.val_fraction or test_fraction, take another seed, or bring more images"
        )
    return splits


def _find_unit_splits(
    source_splits: np.ndarray, drawable: np.ndarray, order: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Return the split that the source assigns to each unit, NO_SPLIT if it assigns none.

    Raises:
        UserError: it assigns several to one unit.
    """
    lowest = np.minimum.reduceat(np.where(drawable, len(SPLITS), source_splits)[order], starts)
    highest = np.maximum.reduceat(np.where(drawable, NO_SPLIT, source_splits)[order], starts)
    conflicts = np.flatnonzero((highest != NO_SPLIT) & (lowest != highest))
    if len(conflicts):
        both = f"{SPLITS[lowest[conflicts[0]]]} and {SPLITS[highest[conflicts[0]]]}"
        raise UserError(
            f"the source puts images of one group into {both}; a group belongs to one split"
        )
    return highest
