"""The MNIST family: four IDX files (the format is described at the end of http://yann.lecun.com/exdb/mnist/)."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from components.data.format.images import Images
from components.data.sources.base import Entries, Entry, Refusal, Source, number_of
from components.errors import UserError
from components.files import sha256_file

SUMS = "SHA256SUMS"
CLASSES = "classes.txt"
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_UBYTE = 0x08


class Idx(Source):
    """The official training and test images; raises as `load` does."""

    encoded = False
    shareable = False
    complete = True

    def __init__(self, folder: Path) -> None:
        train, test, self.classes = load(folder)
        self.refused, self.images = [], {"train": train, "test": test}
        self.entries = Entries(
            Entry(name, self.classes[label], split)
            for split, images in self.images.items()
            for name, label in zip(images.ids, images.labels.tolist(), strict=True)
        )

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | np.ndarray | Refusal]:
        return (self.images[entry.split].pixels[number_of(entry)] for entry in entries)


def load(folder: Path) -> tuple[Images, Images, list[str]]:
    """Official training and test images, and class names (`classes.txt`, one per line; else the numbers).

    Files may be gzipped (`.gz`). Where the folder has `SHA256SUMS` (as `sha256sum *` writes it), every file that it
    lists must be there and match before anything is read.

    Raises:
        UserError: a file is missing, altered, truncated or not IDX, or the files do not belong together.
    """
    if not folder.is_dir():
        raise UserError(f"preprocess.source.path: {folder} is not a folder; it must hold the four IDX files")
    verify_sums(folder)
    splits = {}
    for split, (images, labels) in _FILES.items():
        pixels, y = read_idx(_find(folder, images)), read_idx(_find(folder, labels)).astype(np.int64)
        if pixels.ndim not in (3, 4) or y.ndim != 1 or len(pixels) != len(y) or not len(y) or 0 in pixels.shape:
            raise UserError(
                f"{folder}: the {split} images {pixels.shape} and labels {y.shape} do not belong together; "
                "(N, H, W) or (N, H, W, C) and (N,) with N > 0 are needed"
            )
        splits[split] = Images(pixels.reshape(*pixels.shape[:3], -1), y, [f"{split}/{i}" for i in range(len(y))])
    train, test = splits["train"], splits["test"]
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise UserError(
            f"{folder}: training images are {train.pixels.shape[1:]}, test images {test.pixels.shape[1:]}; "
            "they must agree in height, width and channels"
        )
    return train, test, _classes(folder, int(max(train.labels.max(), test.labels.max())) + 1)


def verify_sums(folder: Path) -> None:
    """Checks every line of `SHA256SUMS`, if there is one."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    wrong = []
    for line in filter(None, lines):
        expected, _, name = line.partition(" ")
        path = folder / name.strip().lstrip("*")
        if not path.is_file():
            wrong.append(f"{path}: missing, expected sha256 {expected}")
        elif (found := sha256_file(path)) != expected:
            wrong.append(f"{path}: altered, expected sha256 {expected}, found {found}")
    if wrong:
        raise UserError(
            "\n  ".join(
                [
                    "raw files are not what they were; restore them (`git checkout`, `dvc pull`), or, "
                    f"if the change is meant, rewrite {folder / SUMS}:",
                    *wrong,
                ]
            )
        )


def read_idx(path: Path) -> np.ndarray:
    """One IDX file of unsigned bytes, as an array of the shape that its header says."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UBYTE or len(data) < 4 + 4 * data[3]:
        raise UserError(f"{path}: not an IDX file of unsigned bytes (starts with {data[:4].hex()})")
    start = 4 + 4 * data[3]
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", data[3], 4))
    if len(data) - start != math.prod(shape):
        raise UserError(f"{path}: its header says {shape}, {math.prod(shape)} bytes; {len(data) - start} follow")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise UserError(f"{folder / name}: missing (also as .gz)")


def _classes(folder: Path, needed: int) -> list[str]:
    path = folder / CLASSES
    if not path.is_file():
        return [str(i) for i in range(needed)]
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(names) < needed or len(set(names)) < len(names):
        raise UserError(
            f"{path}: {len(set(names))} different names, but labels go up to {needed - 1}; "
            f"one line for each of at least {needed} classes is needed"
        )
    return names
