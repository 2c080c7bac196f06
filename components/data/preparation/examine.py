"""One look at each image of a chunk: decoded and made uniform, or refused, with the facts that decisions are made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dctn

from components.data.preparation.decoder import Decoded, RefusedError, Rules, uniform
from components.data.preparation.sandbox import Sandbox
from components.data.sources.base import Entry, Refusal, Source, content_digest

# Of each accepted image: row of its entry, digest of its pixels, digest of its content, perceptual hash, size of the
# picture, bytes of its file, mean grey level.
FACTS = np.dtype(
    [
        ("row", "i8"), ("digest", "S32"), ("content", "S32"), ("hash", "u8"),
        ("height", "i4"), ("width", "i4"), ("bytes", "i8"), ("grey", "f4"),
    ]
)  # fmt: skip
# Decoded files in the hands of this process at any moment, at most.
_AT_ONCE_MB = 64
_EXTENSIONS = {
    "JPEG": {"jpg", "jpeg", "jpe", "jfif", "mpo"},
    "PNG": {"png", "apng"},
    "WEBP": {"webp"},
    "BMP": {"bmp", "dib"},
    "TIFF": {"tif", "tiff"},
    "GIF": {"gif"},
}


class Examined(NamedTuple):
    """A chunk: `facts` and `pixels` (`uint8 (N, H, W, C)`) of what is accepted, `refused` and the content digests of the
    rest by row, and for each shape seen the id of its first image. Of several shapes there are no pixels."""

    facts: np.ndarray
    pixels: np.ndarray
    refused: list[tuple[int, Refusal, bytes]]
    shapes: dict[tuple[int, ...], str]


def examine(first: int, entries: Sequence[Entry], source: Source, rules: Rules) -> Examined:
    """Looks at `entries`, which are the source's from row `first` on."""
    facts = np.zeros(len(entries), FACTS)
    greys = np.zeros((len(entries), 32, 32), np.uint8)
    pixels: list[np.ndarray] = []
    refused: list[tuple[int, Refusal, bytes]] = []
    shapes: dict[tuple[int, ...], str] = {}
    done = 0
    for row, (entry, content, size, found) in enumerate(_outcomes(entries, source, rules), first):
        if isinstance(found, Refusal):
            refused.append((row, found, content))
            continue
        facts[done] = (row, found.digest, content, 0, *found.size, size, 0)
        greys[done] = found.grey
        done += 1
        shapes.setdefault(found.pixels.shape, entry.id)
        if len(shapes) == 1:
            pixels.append(found.pixels)
    facts = facts[:done]
    facts["hash"], facts["grey"] = perceptual_hashes(greys[:done]), greys[:done].mean(axis=(1, 2))
    block = np.stack(pixels) if len(shapes) == 1 else np.empty((0, 0, 0, 0), np.uint8)
    return Examined(facts, block, refused, shapes)


def _outcomes(entries: Sequence[Entry], source: Source, rules: Rules) -> Iterator[tuple[Entry, bytes, int, Decoded | Refusal]]:
    """Each entry, with its content's digest and bytes, and what came of it."""
    files: list[tuple[Entry, bytes | Refusal]] = []
    size = 0
    for entry, content in zip(entries, source.read(entries), strict=True):
        if isinstance(content, np.ndarray):
            digest = content_digest(content)
            yield entry, digest, content.nbytes, _array(entry, content, rules, digest)
            continue
        files.append((entry, content))
        size += len(content) if isinstance(content, bytes) else 0
        if size > _AT_ONCE_MB << 20:
            yield from _decoded(files, rules)
            files, size = [], 0
    yield from _decoded(files, rules)


def _decoded(files: list[tuple[Entry, bytes | Refusal]], rules: Rules) -> Iterator[tuple[Entry, bytes, int, Decoded | Refusal]]:
    answers = _sandbox(rules).decode([data for _, data in files if isinstance(data, bytes)])
    for entry, data in files:
        digest = content_digest(data)
        if isinstance(data, Refusal):
            yield entry, digest, 0, data
            continue
        found = next(answers)
        if isinstance(found, Decoded):
            yield entry, digest, len(data), _agreeing(entry, found, digest)
        else:
            yield entry, digest, len(data), Refusal(entry.id, *found, digest.hex())


def _agreeing(entry: Entry, found: Decoded, digest: bytes) -> Decoded | Refusal:
    """Refuses a file whose extension speaks of another format: whoever made it was wrong about it."""
    stem, dot, extension = entry.id.rpartition("/")[2].rpartition(".")
    known = any(extension.lower() in names for names in _EXTENSIONS.values())
    if stem and dot and known and extension.lower() not in _EXTENSIONS[found.format]:
        return Refusal(entry.id, "extension", f"it is a {found.format} file called .{extension}", digest.hex())
    return found


def _array(entry: Entry, pixels: np.ndarray, rules: Rules, digest: bytes) -> Decoded | Refusal:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        found = f"{pixels.dtype} {pixels.shape}"
        return Refusal(entry.id, "not an image", f"{found}; uint8 (H, W, C) with 1, 3 or 4 channels is needed", digest.hex())
    try:
        return uniform(Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels), rules, "array")
    except RefusedError as error:
        reason, detail = error.args
        return Refusal(entry.id, reason, detail, digest.hex())


@lru_cache(maxsize=1)
def _sandbox(rules: Rules) -> Sandbox:
    """This process's decoder: one start serves all its chunks."""
    return Sandbox(rules)


def perceptual_hashes(greys: np.ndarray) -> np.ndarray:
    """pHash, `uint64 (N,)`, of `uint8 (N, 32, 32)`: which of the 8 x 8 lowest frequencies of the cosine transform are above
    their median (Zauner 2010; imagehash.phash does one image at a time). Near-duplicates differ in few bits."""
    low = np.rint(dctn(greys.astype(np.float32), axes=(1, 2))[:, :8, :8]).reshape(len(greys), 64)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").reshape(-1).astype(np.uint64)
