"""Differences between the states of two trainings, by name."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

MAX_NAMES = 5
"""Most names that one record lists."""


def describe_differences(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Any]:
    """Return the largest difference of two state dicts, and the first names that differ."""
    names = [name for name in first if not torch.equal(first[name], second[name])]
    largest = [float((first[name].double() - second[name].double()).abs().max()) for name in names]
    return {"max_difference": max(largest, default=0.0), "differ": names[:MAX_NAMES]}


def find_differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Return the paths in two nested states whose values differ."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, dict) and isinstance(second, dict):
        keys = first.keys() | second.keys()
        parts = [
            find_differences(first.get(key), second.get(key), f"{path}.{key}")
            for key in sorted(keys, key=str)
        ]
        return list(itertools.chain.from_iterable(parts))
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        parts = [
            find_differences(a, b, f"{path}.{n}")
            for n, (a, b) in enumerate(zip(first, second, strict=True))
        ]
        return list(itertools.chain.from_iterable(parts))
    return [] if first == second else [path]
