"""Detection of exact duplicates and near-duplicates."""

from __future__ import annotations

import numpy as np
import pytest

from components.data.preparation import duplicates


def test_first_occurrences() -> None:
    first = duplicates.find_first_occurrences(np.array([b"b", b"a", b"b", b"c", b"a"]))
    assert first.tolist() == [0, 1, 0, 3, 1]


def test_all_copies_with_different_labels_are_in_conflict() -> None:
    first = np.array([0, 1, 0, 1, 0])
    labels = np.array([5, 6, 5, 6, 7])
    conflicts = duplicates.find_label_conflicts(first, labels)
    assert conflicts.tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("distance", [0, 1, 4, 7])
def test_near_duplicates_match_a_comparison_of_all_pairs(distance: int) -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 60, dtype=np.uint64)
    flips = np.uint64(1) << random.integers(0, 64, (240, 3)).astype(np.uint64)
    hashes = np.concatenate([hashes, np.repeat(hashes, 4) ^ np.bitwise_xor.reduce(flips, axis=1)])
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= distance
    expected = np.arange(len(hashes))
    while not np.array_equal(expected, smallest := np.where(near, expected, 999).min(axis=1)):
        expected = smallest
    assert np.array_equal(duplicates.find_near_duplicates(hashes, distance), expected)
