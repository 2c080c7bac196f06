"""Examination of one chunk of images: read, decode or refuse, and collect facts about each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.fft import dctn

from components.data.preparation.conversion import (
    THUMBNAIL_SIDE,
    DecodedImage,
    convert,
    to_image,
)
from components.data.preparation.rules import DecoderRules, RefusedError
from components.data.preparation.sandbox import Sandbox
from components.data.sources.base import ImageEntry, ImageSource, Refusal, digest_content
from components.data.sources.files.kinds import IMAGE_EXTENSIONS, get_extension

# Facts about an accepted image: row of its entry, digest of its pixels, digest of its content,
# perceptual hash, height and width of the picture, bytes of its file, mean grey level.
FACTS_DTYPE = np.dtype(
    [
        ("row", "i8"), ("digest", "S32"), ("content", "S32"), ("hash", "u8"),
        ("height", "i4"), ("width", "i4"), ("bytes", "i8"), ("grey", "f4"),
    ]
)  # fmt: skip
# Largest size of the files that are read before they are decoded, in MiB. It bounds the memory of
# this process.
_MAX_BUFFERED_MB = 64
# Format -> its file name extensions.
_EXTENSIONS = {
    "JPEG": {"jpg", "jpeg", "jpe", "jfif", "jfi", "jif", "mpo"},
    "PNG": {"png", "apng"},
    "WEBP": {"webp"},
    "BMP": {"bmp", "dib"},
    "TIFF": {"tif", "tiff"},
    "GIF": {"gif"},
    "AVIF": {"avif", "avifs"},
    "HEIF": {"heic", "heif", "heics", "heifs", "hif"},
}


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


class _Outcome(NamedTuple):
    """Result of reading and decoding one entry; `size` is the bytes of its content."""

    entry: ImageEntry
    content_digest: bytes
    size: int
    image: DecodedImage | Refusal


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
    for row, outcome in enumerate(_read_and_decode(entries, source, rules), first_row):
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


def _read_and_decode(
    entries: Sequence[ImageEntry], source: ImageSource, rules: DecoderRules
) -> Iterator[_Outcome]:
    """Yield the outcome of each entry, in order."""
    files: list[tuple[ImageEntry, bytes | Refusal]] = []
    size = 0
    for entry, content in zip(entries, source.read(entries), strict=True):
        if isinstance(content, np.ndarray):
            # Yield the entries before the array first, because the caller counts rows.
            yield from _decode_files(files, rules)
            files = []
            size = 0
            digest = digest_content(content)
            image = _convert_array(entry, content, rules, digest)
            yield _Outcome(entry, digest, content.nbytes, image)
            continue
        files.append((entry, content))
        size += len(content) if isinstance(content, bytes) else 0
        if size > _MAX_BUFFERED_MB << 20:
            yield from _decode_files(files, rules)
            files = []
            size = 0
    yield from _decode_files(files, rules)


def _decode_files(
    files: list[tuple[ImageEntry, bytes | Refusal]], rules: DecoderRules
) -> Iterator[_Outcome]:
    contents = [content for _, content in files if isinstance(content, bytes)]
    images = _get_sandbox(rules).decode(contents)
    for entry, content in files:
        digest = digest_content(content)
        if isinstance(content, Refusal):
            yield _Outcome(entry, digest, 0, content)
            continue
        image = next(images)
        if isinstance(image, DecodedImage):
            yield _Outcome(entry, digest, len(content), _check_extension(entry, image, digest))
        else:
            refusal = Refusal(entry.id, image.reason, image.detail, digest.hex())
            yield _Outcome(entry, digest, len(content), refusal)


def _check_extension(
    entry: ImageEntry, image: DecodedImage, digest: bytes
) -> DecodedImage | Refusal:
    """Refuse a file whose extension is that of another format: its origin is not reliable.

    Raw photographs of cameras (.dng, .nef) open as TIFF, but as their small preview.
    """
    extension = get_extension(entry.id)
    if extension in IMAGE_EXTENSIONS and extension not in _EXTENSIONS[image.format]:
        detail = f"it is a {image.format} file called .{extension}"
        return Refusal(entry.id, "extension", detail, digest.hex())
    return image


def _convert_array(
    entry: ImageEntry, pixels: np.ndarray, rules: DecoderRules, digest: bytes
) -> DecodedImage | Refusal:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        detail = f"{pixels.dtype} {pixels.shape}; uint8 (H, W, C) with 1, 3 or 4 channels is needed"
        return Refusal(entry.id, "not an image", detail, digest.hex())
    try:
        return convert(to_image(pixels), rules, "array")
    except RefusedError as error:
        reason, detail = error.args
        return Refusal(entry.id, reason, detail, digest.hex())


@lru_cache(maxsize=1)
def _get_sandbox(rules: DecoderRules) -> Sandbox:
    """Return the sandbox of this process; all its chunks share one decoder."""
    return Sandbox(rules)


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
