"""The `idx` source: the four IDX files of MNIST and its relatives.

The format is described at the end of http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from components.data.format.images import Images
from components.data.sources.base import (
    ImageEntries,
    ImageEntry,
    ImageSource,
    Refusal,
    parse_row_number,
)
from components.errors import UserError
from components.files import sha256_file

CHECKSUM_FILE = "SHA256SUMS"
CLASS_FILE = "classes.txt"
# Split -> files of images and of labels.
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# Type code of unsigned bytes, the third byte of the header.
_UNSIGNED_BYTE = 0x08


class IdxImageSource(ImageSource):
    """The official training and test images, in memory. Raises as `load` does."""

    encoded = False
    shareable = False
    fixed_classes = True

    def __init__(self, folder: Path) -> None:
        train, test, self.classes = load(folder)
        self.refused = []
        self.images = {"train": train, "test": test}
        self.entries = ImageEntries(
            ImageEntry(name, self.classes[label], split)
            for split, images in self.images.items()
            for name, label in zip(images.ids, images.labels.tolist(), strict=True)
        )

    def read(self, entries: Sequence[ImageEntry]) -> Iterator[bytes | np.ndarray | Refusal]:
        return (self.images[entry.split].pixels[parse_row_number(entry)] for entry in entries)


def load(folder: Path) -> tuple[Images, Images, list[str]]:
    """Load the official training images, the official test images and the class names.

    Class names are the lines of `classes.txt`; without that file, the label numbers. The files may
    be gzipped (`.gz`). If the folder has `SHA256SUMS` (the output of `sha256sum *`), all files
    listed there are verified before anything is read.

    Raises:
        UserError: a file is missing, altered, truncated or not IDX, or the files do not match one
            another.
    """
    if not folder.is_dir():
        raise UserError(
            f"preprocess.source.path: {folder} is not a folder; it must hold the four IDX files"
        )
    verify_checksums(folder)
    train = _load_split(folder, "train")
    test = _load_split(folder, "test")
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise UserError(
            f"{folder}: training images are {train.pixels.shape[1:]}, "
            f"test images {test.pixels.shape[1:]}; they must agree in height, width and channels"
        )
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    return train, test, _load_class_names(folder, num_classes)


def _load_split(folder: Path, split: str) -> Images:
    image_file, label_file = _FILES[split]
    pixels = read_idx(_find_file(folder, image_file))
    labels = read_idx(_find_file(folder, label_file)).astype(np.int64)
    if (
        pixels.ndim not in (3, 4)
        or labels.ndim != 1
        or len(pixels) != len(labels)
        or not len(labels)
        or 0 in pixels.shape
    ):
        raise UserError(
            f"{folder}: the {split} images {pixels.shape} and labels {labels.shape} do not belong "
            "together; (N, H, W) or (N, H, W, C) and (N,) with N > 0 are needed"
        )
    ids = [f"{split}/{row}" for row in range(len(labels))]
    return Images(pixels.reshape(*pixels.shape[:3], -1), labels, ids)


def verify_checksums(folder: Path) -> None:
    """Compare the files of a folder with the digests in `SHA256SUMS`, if that file exists.

    Raises:
        UserError: files are missing or altered; lists all of them.
    """
    try:
        lines = (folder / CHECKSUM_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    problems = []
    for line in filter(None, lines):
        expected, _, name = line.partition(" ")
        path = folder / name.strip().lstrip("*")
        if not path.is_file():
            problems.append(f"{path}: missing, expected sha256 {expected}")
        elif (actual := sha256_file(path)) != expected:
            problems.append(f"{path}: altered, expected sha256 {expected}, found {actual}")
    if problems:
        summary = (
            "raw files are not what they were; restore them (`git checkout`, `dvc pull`), or, "
            f"if the change is meant, rewrite {folder / CHECKSUM_FILE}:"
        )
        raise UserError("\n  ".join([summary, *problems]))


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes into a `uint8` array of the shape in its header."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    # Header: two zeros, type code, number of dimensions, each dimension as a big-endian uint32.
    is_idx = len(data) >= 4 and data[:2] == b"\0\0" and data[2] == _UNSIGNED_BYTE
    if not is_idx or len(data) < 4 + 4 * data[3]:
        raise UserError(f"{path}: not an IDX file of unsigned bytes (starts with {data[:4].hex()})")
    start = 4 + 4 * data[3]
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", data[3], 4))
    if len(data) - start != math.prod(shape):
        raise UserError(
            f"{path}: its header says {shape}, {math.prod(shape)} bytes; {len(data) - start} follow"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _find_file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise UserError(f"{folder / name}: missing (also as .gz)")


def _load_class_names(folder: Path, num_classes: int) -> list[str]:
    path = folder / CLASS_FILE
    if not path.is_file():
        return [str(label) for label in range(num_classes)]
    lines = path.read_text(encoding="utf-8").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if len(names) < num_classes or len(set(names)) < len(names):
        raise UserError(
            f"{path}: {len(set(names))} different names, but labels go up to {num_classes - 1}; "
            f"one line for each of at least {num_classes} classes is needed"
        )
    return names
