"""Images that are there more than once: to the pixel, or nearly (perceptual hashes a few bits apart)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Comparisons at a time.
_BLOCK = 1 << 19


def same(keys: np.ndarray) -> np.ndarray:
    """For each row the first row with the same key, `int64 (N,)`."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rows: np.ndarray = first[inverse]
    return rows


def contradicting(first: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which rows have, under the same first row, another label beside theirs, `bool (N,)`."""
    wrong = np.zeros(len(labels), bool)
    np.logical_or.at(wrong, first, labels != labels[first])
    rows: np.ndarray = wrong[first]
    return rows


def near(hashes: np.ndarray, distance: int) -> np.ndarray:
    """For each row the first row of its cluster, `int64 (N,)`: rows whose hashes (`uint64`) differ in at most `distance`
    bits, directly or through others.

    Two hashes that differ in d bits agree in one of d + 1 parts (Norouzi et al., arXiv:1307.2982): only those are compared.
    """
    unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    parts = distance + 1
    edges = [np.empty((2, 0), np.int64)]
    for part in range(parts) if distance else ():
        low, high = 64 * part // parts, 64 * (part + 1) // parts
        keys = (unique >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        edges.append(_within(unique, np.argsort(keys, kind="stable"), keys, distance))
    pairs = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(len(unique),) * 2)
    _, cluster = connected_components(graph, directed=False)
    earliest = np.full(len(unique), len(hashes))
    np.minimum.at(earliest, cluster, first)
    rows: np.ndarray = earliest[cluster][inverse]
    return rows


def _within(hashes: np.ndarray, order: np.ndarray, keys: np.ndarray, distance: int) -> np.ndarray:
    """Pairs of rows with equal keys and hashes at most `distance` bits apart, `int64 (2, P)`; `order` sorts the keys."""
    found = [np.empty((2, 0), np.int64)]
    ends = np.searchsorted(keys[order], keys[order], side="right")
    later = ends - np.arange(len(order)) - 1  # of each row in order, how many after it share its key
    for block in np.split(np.arange(len(order)), np.flatnonzero(np.diff(np.cumsum(later) // _BLOCK)) + 1):
        counts = later[block]
        left = np.repeat(block, counts)
        right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
        a, b = order[left], order[right]
        close = np.bitwise_count(hashes[a] ^ hashes[b]) <= distance
        found.append(np.stack([a[close], b[close]]))
    return np.concatenate(found, axis=1)
