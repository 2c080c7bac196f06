"""Examination of one chunk of images: read, decode or refuse, and collect facts about each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.fft import dctn

from components.data.preparation.conversion import THUMBNAIL_SIDE
from components.data.preparation.decoding import decode_entries
from components.data.preparation.rules import DecoderRules
from components.data.sources.base import ImageEntry, ImageSource, Refusal

# Facts about an accepted image: row of its entry, digest of its pixels, digest of its content,
# perceptual hash, height and width of the picture, bytes of its file, mean grey level.
FACTS_DTYPE = np.dtype(
    [
        ("row", "i8"), ("digest", "S32"), ("content", "S32"), ("hash", "u8"),
        ("height", "i4"), ("width", "i4"), ("bytes", "i8"), ("grey", "f4"),
    ]
)  # fmt: skip


class RefusedRow(NamedTuple):
    """An image of a chunk that was refused."""

    row: int
    refusal: Refusal
    content_digest: bytes


class ExaminedChunk(NamedTuple):
    """Facts, pixels and refusals of a chunk.

    `facts` (of `FACTS_DTYPE`) and `pixels`, `uint8 (N, H, W, C)`, have a row per accepted image.
    `shapes` maps each shape (H, W, C) to the id of its first image. If there is more than one
    shape, `pixels` are empty.
    """

    facts: np.ndarray
    pixels: np.ndarray
    refused: list[RefusedRow]
    shapes: dict[tuple[int, ...], str]


def examine(
    first_row: int, entries: Sequence[ImageEntry], source: ImageSource, rules: DecoderRules
) -> ExaminedChunk:
    """Examine consecutive entries of a source, of which the first is row `first_row`."""
    facts = np.zeros(len(entries), FACTS_DTYPE)
    thumbnails = np.zeros((len(entries), THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
    pixels: list[np.ndarray] = []
    refused: list[RefusedRow] = []
    shapes: dict[tuple[int, ...], str] = {}
    accepted = 0
    for row, outcome in enumerate(decode_entries(entries, source, rules), first_row):
        image = outcome.image
        if isinstance(image, Refusal):
            refused.append(RefusedRow(row, image, outcome.content_digest))
            continue
        # Perceptual hash and grey level are computed below, for all images at once.
        facts[accepted] = (
            row, image.digest, outcome.content_digest, 0, *image.size, outcome.size, 0
        )  # fmt: skip
        thumbnails[accepted] = image.thumbnail
        accepted += 1
        shapes.setdefault(image.pixels.shape, outcome.entry.id)
        if len(shapes) == 1:
            pixels.append(image.pixels)
    facts = facts[:accepted]
    facts["hash"] = compute_perceptual_hashes(thumbnails[:accepted])
    facts["grey"] = thumbnails[:accepted].mean(axis=(1, 2))
    block = np.stack(pixels) if len(shapes) == 1 else np.empty((0, 0, 0, 0), np.uint8)
    return ExaminedChunk(facts, block, refused, shapes)


def compute_perceptual_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Return the pHash of each grey image; near-duplicates differ in few bits.

    A bit is set if one of the 8 x 8 lowest frequencies of the cosine transform is above their
    median (Zauner 2010; `imagehash.phash` does the same for one image at a time).

    Args:
        thumbnails: `uint8 (N, 32, 32)`.

    Returns:
        `uint64 (N,)`.
    """
    frequencies = dctn(thumbnails.astype(np.float32), axes=(1, 2))
    low = np.rint(frequencies[:, :8, :8]).reshape(len(thumbnails), 64)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").reshape(-1).astype(np.uint64)
