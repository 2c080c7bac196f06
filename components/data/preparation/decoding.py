"""The way from an entry of a source to its pixels: read, decode in the sandbox, convert, or refuse.

`preprocess` and predictions use it alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from components.data.preparation.conversion import DecodedImage, convert, to_image
from components.data.preparation.rules import DecoderRules, RefusedError
from components.data.preparation.sandbox import Sandbox
from components.data.sources.base import ImageEntry, ImageSource, Refusal, digest_content
from components.data.sources.files.kinds import IMAGE_EXTENSIONS, get_extension

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


class DecodedEntry(NamedTuple):
    """Result of reading and decoding one entry; `size` is the bytes of its content."""

    entry: ImageEntry
    content_digest: bytes
    size: int
    image: DecodedImage | Refusal


def decode_entries(
    entries: Sequence[ImageEntry], source: ImageSource, rules: DecoderRules
) -> Iterator[DecodedEntry]:
    """Yield the outcome of each entry, in order. Only some of the files are in memory at a time."""
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
            yield DecodedEntry(entry, digest, content.nbytes, image)
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
) -> Iterator[DecodedEntry]:
    contents = [content for _, content in files if isinstance(content, bytes)]
    images = _get_sandbox(rules).decode(contents)
    for entry, content in files:
        digest = digest_content(content)
        if isinstance(content, Refusal):
            yield DecodedEntry(entry, digest, 0, content)
            continue
        image = next(images)
        if isinstance(image, DecodedImage):
            yield DecodedEntry(entry, digest, len(content), _check_extension(entry, image, digest))
        else:
            refusal = Refusal(entry.id, image.reason, image.detail, digest.hex())
            yield DecodedEntry(entry, digest, len(content), refusal)


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
