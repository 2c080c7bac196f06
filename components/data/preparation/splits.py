"""What is trained on and what is held out.

An image's split is drawn from the seed and the digest of its pixels (or its group's name), and from nothing else: more
images move none of those that are there. What that costs is that shares come out as draws do, not to the image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from components.data.sources.base import NONE, SPLITS
from components.errors import UserError

TRAIN, VAL, TEST = range(len(SPLITS))


def draw(key: bytes, seed: int) -> float:
    """A number in [0, 1) that only `key` and `seed` determine."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, salt=seed.to_bytes(8, "little")).digest()) / 2**64


def assign(
    given: np.ndarray, units: np.ndarray, key: Callable[[int], bytes], val_fraction: float, test_fraction: float, seed: int
) -> np.ndarray:
    """The split of each image, `int8 (N,)` of indices into `SPLITS`.

    What the source gives (`given`; NONE where it does not) stays. The rest is drawn, but no split that the source gives.
    If the source gives a training split without validation or test, these are cut out of it. Images of one unit (`units`,
    any integers) go together: drawn by the smallest of their rows' keys, or to where the source puts one of them.

    Raises:
        UserError: the source puts images of one unit into several splits, or a split would be empty.
    """
    out = given.astype(np.int8)
    has = [bool((given == split).any()) for split in range(3)]
    open_ = given == NONE
    if not open_.any():
        open_ = given == TRAIN if not (has[VAL] and has[TEST]) else open_
    shares = (0.0 if has[TEST] else test_fraction, 0.0 if has[VAL] else val_fraction)
    order = np.argsort(units, kind="stable")
    starts = np.flatnonzero(np.diff(units[order], prepend=np.nan if len(order) else 0))
    # Per unit: where the source puts it, as the lowest and highest of what it says of its images.
    low = np.minimum.reduceat(np.where(open_, len(SPLITS), given)[order], starts)
    place = np.maximum.reduceat(np.where(open_, NONE, given)[order], starts)
    if len(torn := np.flatnonzero((place != NONE) & (low != place))):
        both = f"{SPLITS[low[torn[0]]]} and {SPLITS[place[torn[0]]]}"
        raise UserError(f"the source puts images of one group into {both}; a group belongs to one split")
    ends = np.append(starts[1:], len(order))
    for unit in np.flatnonzero(place == NONE):
        u = draw(min(key(row) for row in order[starts[unit] : ends[unit]]), seed)
        place[unit] = TEST if u < shares[0] else VAL if u < sum(shares) else TRAIN
    where = np.empty(len(order), np.int8)
    where[order] = np.repeat(place, ends - starts)
    out[open_] = where[open_]
    empty = [name for split, name in enumerate(SPLITS) if not (out == split).any()]
    if empty:
        raise UserError(
            f"no image of {len(out):,} falls into {' and '.join(empty)}: raise preprocess.val_fraction or test_fraction, "
            "take another seed, or bring more images"
        )
    return out
