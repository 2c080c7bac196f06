"""Number of images of each class to draw for each split."""

from __future__ import annotations

import hashlib

import numpy as np

from components.data.sources.base import SPLITS

TRAIN, VAL, TEST = range(len(SPLITS))
# Differences below this are rounding of a product such as 0.1 * 6000.
_DIGITS = 6


def draw(key: bytes, seed: int) -> float:
    """Return a number in [0, 1) that depends only on `key` and `seed`."""
    salt = seed.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, salt=salt).digest()) / 2**64


def compute_asked(counts: np.ndarray, val_share: float, test_share: float) -> np.ndarray:
    """Return the exact share of each class in each split, `float (classes, 3)`."""
    shares = np.array([1 - val_share - test_share, val_share, test_share])
    asked: np.ndarray = np.round(counts[:, None] * shares, _DIGITS)
    return asked


def compute_quotas(
    counts: np.ndarray, offsets: np.ndarray, val_share: float, test_share: float
) -> np.ndarray:
    """Return the number of images of each class to put into each split, `int64 (classes, 3)`.

    Each number is within one image of the exact share. Exception: a class is in every split as
    soon as it has an image for each, so a class of three is split into one, one and one. A class
    of two images is in the training split and in one other; a single image is for training.

    The quotas of validation and test do not fall when a class of at least three images grows, as
    long as images are left to train on.

    Args:
        counts: Number of images of each class, `int (classes,)`.
        offsets: A number in [0, 1) per class, `float (classes,)`. It decides whether the share of
            the test is rounded up, and that of validation down. If all classes were rounded
            alike, the sum over many classes of equal size would be far from the share.
        val_share: Share to draw for validation; 0 if no such split is drawn.
        test_share: Share to draw for the test; 0 if no such split is drawn.
    """
    asked = compute_asked(counts, val_share, test_share)
    offsets = np.clip(offsets, 1e-5, 1 - 1e-5)
    quotas = np.zeros(asked.shape, np.int64)
    quotas[:, VAL] = np.floor(asked[:, VAL] + 1 - offsets)
    quotas[:, TEST] = np.floor(asked[:, TEST] + offsets)
    drawn = [split for split, share in ((VAL, val_share), (TEST, test_share)) if share]
    enough = counts > len(drawn)
    for split in drawn:
        quotas[:, split] = np.where(enough, np.maximum(quotas[:, split], 1), 0)
    if len(drawn) == 2:
        to_test = offsets < test_share / (val_share + test_share)
        quotas[(counts == 2) & to_test, TEST] = 1
        quotas[(counts == 2) & ~to_test, VAL] = 1
    # Each minimum of one image above may have added one, so train may lack two.
    for _ in range(2):
        _return_to_train(quotas, counts, asked, enough)
    quotas[:, TRAIN] = counts - quotas[:, VAL] - quotas[:, TEST]
    return quotas


def _return_to_train(
    quotas: np.ndarray, counts: np.ndarray, asked: np.ndarray, enough: np.ndarray
) -> None:
    """Give train one image more of each class where it has none, or lacks more than one.

    The image comes from the split that exceeds its share most and has at least two.
    """
    train = counts - quotas[:, VAL] - quotas[:, TEST]
    surplus = np.where(quotas > 1, quotas - asked, -np.inf)
    surplus[:, TRAIN] = -np.inf
    donor = surplus.argmax(axis=1)
    most = surplus.max(axis=1)
    short = (train < asked[:, TRAIN] - 1) & (most > 0)
    gives = np.flatnonzero(enough & ((train < 1) | short) & np.isfinite(most))
    quotas[gives, donor[gives]] -= 1
