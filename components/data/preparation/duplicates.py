"""Detection of exact duplicates (equal pixels) and near-duplicates (similar perceptual hashes)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Pairs of hashes that are compared at a time; bounds the memory.
_PAIRS_PER_BLOCK = 1 << 19


def find_first_occurrences(keys: np.ndarray) -> np.ndarray:
    """Return for each row the index of the first row with the same key, `int64 (N,)`."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rows: np.ndarray = first[inverse]
    return rows


def find_label_conflicts(first: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return a mask of rows whose exact duplicates carry a different label, `bool (N,)`.

    Args:
        first: Index of the first duplicate of each row, `int64 (N,)`.
        labels: Label of each row, `int64 (N,)`.
    """
    conflict = np.zeros(len(labels), bool)
    np.logical_or.at(conflict, first, labels != labels[first])
    rows: np.ndarray = conflict[first]
    return rows


def find_near_duplicates(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Return for each row the index of the first row of its cluster, `int64 (N,)`.

    A cluster is a connected component of rows whose hashes differ in at most `distance` bits.

    Two 64-bit hashes that differ in d bits agree in at least one of d + 1 parts (Norouzi et al.,
    arXiv:1307.2982). Only hashes that agree in a part are compared.

    Args:
        hashes: Perceptual hashes, `uint64 (N,)`.
        distance: Largest Hamming distance of two near-duplicates.
    """
    unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    num_parts = distance + 1
    edges = [np.empty((2, 0), np.int64)]
    # At distance 0, equal hashes are one row of `unique` already.
    for part in range(num_parts) if distance else ():
        low_bit = 64 * part // num_parts
        high_bit = 64 * (part + 1) // num_parts
        keys = (unique >> np.uint64(low_bit)) & np.uint64((1 << (high_bit - low_bit)) - 1)
        edges.append(_find_close_pairs(unique, keys, distance))
    pairs = np.concatenate(edges, axis=1)
    graph = coo_array(
        (np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(len(unique),) * 2
    )
    _, cluster = connected_components(graph, directed=False)
    first_of_cluster = np.full(len(unique), len(hashes))
    np.minimum.at(first_of_cluster, cluster, first)
    rows: np.ndarray = first_of_cluster[cluster][inverse]
    return rows


def _find_close_pairs(hashes: np.ndarray, keys: np.ndarray, distance: int) -> np.ndarray:
    """Return pairs of rows with equal keys and at most `distance` differing bits, `int64 (2, P)`.

    Rows are sorted by key. Each is paired with the rows after it that have the same key.
    """
    close_pairs = [np.empty((2, 0), np.int64)]
    order = np.argsort(keys, kind="stable")
    positions = np.arange(len(order))
    key_ends = np.searchsorted(keys[order], keys[order], side="right")
    partner_counts = key_ends - positions - 1
    block_of_position = np.cumsum(partner_counts) // _PAIRS_PER_BLOCK
    for block in np.split(positions, np.flatnonzero(np.diff(block_of_position)) + 1):
        counts = partner_counts[block]
        left = np.repeat(block, counts)
        # Number of each pair among the pairs of its left row: 0, 1, ...
        offset = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
        left_rows = order[left]
        right_rows = order[left + 1 + offset]
        close = np.bitwise_count(hashes[left_rows] ^ hashes[right_rows]) <= distance
        close_pairs.append(np.stack([left_rows[close], right_rows[close]]))
    return np.concatenate(close_pairs, axis=1)
