"""Readers of prepared data, by id of the image."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from components.data.format.shards import read_split

# Type of the fixture `prepare`.
Prepare = Callable[..., Path]


def read_quarantine(out: Path) -> dict[str, str]:
    """Return path -> reason of the images that are not used."""
    with (out / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def read_splits(out: Path) -> dict[str, str]:
    """Return id -> split of the images that are used."""
    return {
        name: split for split in ("train", "val", "test") for name in read_split(out / split)[0].ids
    }


def read_pixels(out: Path) -> dict[str, np.ndarray]:
    """Return id -> pixels of the images that are used."""
    pixels: dict[str, np.ndarray] = {}
    for split in ("train", "val", "test"):
        images, _ = read_split(out / split)
        pixels.update(zip(images.ids, images.pixels, strict=True))
    return pixels


def assert_same_files(one: Path, two: Path) -> None:
    """Assert that two prepared folders hold the same files with the same bytes."""
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) >= 8
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
