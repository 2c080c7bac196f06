"""Examination of a whole source: every image is decoded once, and its pixels spooled to disk."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.data.preparation.description import describe_preparation, make_rules
from components.data.preparation.examine import FACTS_DTYPE, ExaminedChunk, examine
from components.data.preparation.rules import DecoderRules
from components.data.preparation.shapes import check_shapes
from components.data.sources.base import (
    ImageEntries,
    ImageEntry,
    ImageSource,
    Refusal,
    digest_source,
    name_some,
)
from components.errors import UserError
from components.params import Preprocess

# Bounds of a chunk, the unit of work of one task. They bound the memory of a process; the result
# does not depend on them.
_CHUNK_ROWS = 1000
_CHUNK_FILE_MB = 32
_CHUNK_PIXEL_MB = 64
# Up to this size, examining a source takes less time than starting other processes.
_SMALL_ROWS = 2000
_SMALL_MB = 20

# `imap(function, inputs, *shared)` yields `function(*input, *shared)` of each input, in order.
Imap = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Survey:
    """Results of examining a source."""

    source: ImageSource
    facts: np.ndarray
    """A row per accepted image, in the order of the source; fields of `FACTS_DTYPE` but content."""
    content_digests: np.ndarray
    """Digest of each entry's content, `uint8 (N, 32)`; zeros if it could not be read."""
    refused: list[Refusal]
    shape: tuple[int, int, int]
    """Height, width and channels of all images."""
    sha256: str
    """Digest of the source."""
    spool: Path
    """File with the pixels of the accepted images, in order and without gaps."""

    def get_entry(self, index: int) -> ImageEntry:
        """Return the entry of an accepted image."""
        return self.source.entries[int(self.facts["row"][index])]

    def get_content_digest(self, index: int) -> str:
        """Return the SHA-256 of an accepted image's content, in hexadecimal."""
        return bytes(self.content_digests[int(self.facts["row"][index])]).hex()

    def read_pixels(self, indices: np.ndarray) -> np.ndarray:
        """Read some of the accepted images, `uint8 (N, H, W, C)`; only these are in memory."""
        pixels = np.empty((len(indices), *self.shape), np.uint8)
        size = pixels[:1].nbytes
        with self.spool.open("rb", buffering=0) as file:
            for position, index in enumerate(indices.tolist()):
                read = os.preadv(file.fileno(), [pixels[position].reshape(-1)], index * size)
                assert read == size, "the spool is short"
        return pixels


@dataclass
class _Results:
    """Results of the chunks that are done.

    The arrays are allocated once, and the content digests are in an array of their own: the driver
    holds the facts of every image.
    """

    facts: np.ndarray
    content_digests: np.ndarray
    refused: list[Refusal] = field(default_factory=list)
    shapes: dict[tuple[int, ...], str] = field(default_factory=dict)
    """Shape -> the first image of that shape."""
    num_accepted: int = 0

    @classmethod
    def allocate(cls, total: int) -> _Results:
        """Return empty results with space for all images."""
        fields = [name for name in FACTS_DTYPE.names or () if name != "content"]
        facts = np.zeros(total, [(name, FACTS_DTYPE[name]) for name in fields])
        return cls(facts, np.zeros((total, 32), np.uint8))

    @property
    def num_done(self) -> int:
        return self.num_accepted + len(self.refused)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the accepted images."""
        height, width, channels = next(iter(self.shapes))
        return height, width, channels

    def add(self, chunk: ExaminedChunk) -> None:
        """Add the next chunk.

        Raises:
            UserError: its images have another shape, or too large a one.
        """
        self.shapes = chunk.shapes | self.shapes
        check_shapes(self.shapes)
        stop = self.num_accepted + len(chunk.facts)
        for name in self.facts.dtype.names or ():
            self.facts[name][self.num_accepted : stop] = chunk.facts[name]
        self.num_accepted = stop
        contiguous = np.ascontiguousarray(chunk.facts["content"])
        self.content_digests[chunk.facts["row"]] = contiguous.view(np.uint8).reshape(-1, 32)
        for row, refusal, digest in chunk.refused:
            self.refused.append(refusal)
            self.content_digests[row] = np.frombuffer(digest, np.uint8)


def is_small(source: ImageSource, max_mb: int = _SMALL_MB) -> bool:
    """Return True if examining a source takes less time than starting other processes."""
    entries = source.entries
    return len(entries) <= _SMALL_ROWS and entries.total_size <= max_mb << 20


def survey(
    source: ImageSource,
    settings: Preprocess,
    spool: Path,
    imap: Imap,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Examine all images of a source, one chunk at a time.

    Args:
        spool: File to write the pixels to.
        imap: Runs the chunks: `local_imap`, or a parallel equivalent.
        on_progress: Called with the number of images done and in total.

    Raises:
        UserError: no image is usable, the disk has too little space, or `image_size` is null and
            images differ in size or are too large.
    """
    # Arrays keep their channels by default; files become RGB.
    channels = settings.channels or (3 if source.encoded else None)
    preparation = describe_preparation(settings)
    rules = make_rules(preparation, settings.target_size, channels, settings.limits)
    total = len(source.entries)
    image_bytes = _count_bytes_per_image(source, rules)
    _check_disk_space(spool, total * image_bytes)
    results = _Results.allocate(total)
    with spool.open("wb") as file:
        chunk: ExaminedChunk
        for chunk in imap(examine, iter_chunks(source.entries, image_bytes), source, rules):
            results.add(chunk)
            file.write(chunk.pixels.reshape(-1).data)
            on_progress(results.num_done, total)
    refused = source.refused + results.refused
    _check_any_is_usable(results, settings.source.path, refused)
    return Survey(
        source=source,
        facts=results.facts[: results.num_accepted],
        content_digests=results.content_digests,
        refused=refused,
        shape=results.shape,
        sha256=digest_source(source.entries, source.refused, map(bytes, results.content_digests)),
        spool=spool,
    )


def _check_any_is_usable(results: _Results, location: str, refused: list[Refusal]) -> None:
    """Raise `UserError` if no image is accepted; names an image for each reason."""
    if results.shapes:
        return
    first = {refusal.reason: refusal for refusal in sorted(refused, reverse=True)}
    examples = [f"{reason}: {first[reason].path} ({first[reason].detail})" for reason in first]
    raise UserError(
        f"{location}: none of {len(results.facts):,} images can be used; "
        f"{name_some(sorted(examples))}"
    )


def local_imap(
    function: Callable[..., Any], inputs: Iterable[tuple[Any, ...]], *shared: Any
) -> Iterator[Any]:
    """Yield `function(*input, *shared)` of each input in order, computed in this process."""
    return (function(*values, *shared) for values in inputs)


def _count_bytes_per_image(source: ImageSource, rules: DecoderRules) -> int:
    """Return the bytes of an image's pixels.

    Without `image_size`, all images must have the shape of the first usable one, which is decoded.
    """
    if rules.image_size:
        return math.prod(rules.image_size) * (rules.channels or 3)
    for row, entry in enumerate(source.entries):
        chunk = examine(row, [entry], source, rules)
        if len(chunk.facts):
            check_shapes(chunk.shapes)
            return chunk.pixels.nbytes
    return 1


def iter_chunks(entries: ImageEntries, image_bytes: int) -> Iterator[tuple[int, list[ImageEntry]]]:
    """Yield consecutive chunks of the entries, each with the row of its first entry."""
    max_rows = max(1, min(_CHUNK_ROWS, (_CHUNK_PIXEL_MB << 20) // image_bytes))
    start = 0
    size = 0
    for row, entry in enumerate(entries):
        full = row - start == max_rows or size + entry.size > _CHUNK_FILE_MB << 20
        if row > start and full:
            yield start, entries[start:row]
            start = row
            size = 0
        size += entry.size
    if start < len(entries):
        yield start, entries[start:]


def _check_disk_space(spool: Path, needed: int) -> None:
    """Raise `UserError` if the spool and the shards, of `needed` bytes each, do not fit."""
    free = shutil.disk_usage(spool.parent).free
    if 2 * needed > free:
        raise UserError(
            f"{spool.parent}: decoded images and shards need {2 * needed >> 20:,} MiB of disk, "
            f"{free >> 20:,} are free; make room or lower preprocess.image_size"
        )
