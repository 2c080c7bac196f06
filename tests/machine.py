"""The speed of this machine at the moment, for timeouts that are part of a test."""

from __future__ import annotations

import time
from functools import cache

_REFERENCE_S = 0.05
"""The time that the loop below takes on one quiet core of an AMD EPYC (Zen 5)."""


@cache
def slowness() -> float:
    """Return how many times slower this machine is than the reference, at least 1.

    Takes the slower of two measurements, so that a neighbour's load counts.
    """
    return max(1.0, *(_measure() / _REFERENCE_S for _ in range(2)))


def _measure() -> float:
    started = time.perf_counter()
    total = 0
    for n in range(1_000_000):
        total += n * n
    return time.perf_counter() - started


def scaled(seconds: float) -> float:
    """Return a timeout for this machine, given the timeout for the reference machine."""
    return seconds * slowness()
