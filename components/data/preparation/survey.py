"""Every image of a source looked at once; the accepted ones wait on disk, uniform, for what is decided about them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.data.preparation.decoder import Rules
from components.data.preparation.examine import FACTS, Examined, examine
from components.data.sources.base import Entries, Entry, Refusal, Source, digest_of
from components.errors import UserError
from components.params import Preprocess

# A chunk is what one task looks at: what comes out does not depend on its size, the memory of a process does.
_CHUNK_ROWS, _CHUNK_FILE_MB, _CHUNK_PIXEL_MB = 1000, 32, 64
# Fewer images and bytes than these are looked at sooner than other processes are started.
_FEW_ROWS, _FEW_MB = 2000, 20
# Larger pictures must be given a common size: whoever trains on them as they are wants another tool.
_LARGEST = 1024

# (function, inputs, *shared) to function(*input, *shared) of each input, in order.
Map = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Survey:
    """What was found. `facts` (see `examine.FACTS`) has a row for each accepted image, in the source's order; `contents` the
    content's digest, `uint8 (N, 32)`, of every entry, zeros where it could not be read."""

    source: Source
    facts: np.ndarray
    contents: np.ndarray
    refused: list[Refusal]
    shape: tuple[int, int, int]
    sha256: str
    spool: Path

    def entry(self, index: int) -> Entry:
        return self.source.entries[int(self.facts["row"][index])]

    def content(self, index: int) -> str:
        """SHA-256 of an accepted image's file."""
        return bytes(self.contents[int(self.facts["row"][index])]).hex()

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """`uint8 (N, H, W, C)` of some of the accepted images; no others are brought into memory."""
        out = np.empty((len(indices), *self.shape), np.uint8)
        size = out[:1].nbytes
        with self.spool.open("rb", buffering=0) as file:
            for place, index in enumerate(indices.tolist()):
                read = os.preadv(file.fileno(), [out[place].reshape(-1)], index * size)
                assert read == size, "the spool is short"
        return out


def rules_of(settings: Preprocess, encoded: bool) -> Rules:
    limits = settings.limits
    return Rules(
        size=settings.image_size,
        channels=settings.channels or (3 if encoded else None),
        background=settings.background,
        formats=tuple(form.upper() for form in limits.formats),
        pixels=limits.max_megapixels * 1_000_000,
        seconds=limits.decode_s,
        memory=limits.decode_mb << 20,
        strict=limits.strict_jpeg,
    )


def is_small(source: Source) -> bool:
    return len(source.entries) <= _FEW_ROWS and source.entries.size <= _FEW_MB << 20


def survey(
    source: Source, settings: Preprocess, spool: Path, run: Map, advance: Callable[[int, int], None] = lambda done, total: None
) -> Survey:
    """Looks at all images, a chunk at a time, through `run` (`here`, or `cluster.spread.stream`).

    Raises:
        UserError: sizes differ or are too large and `image_size` is null, nothing is left, or the disk has no room.
    """
    rules = rules_of(settings, source.encoded)
    total = len(source.entries)
    each = _bytes_of_one(source, rules)
    _check_room(spool, total * each)
    refused, shapes = list(source.refused), dict[tuple[int, ...], str]()
    # In one piece from the start, and without what is in `contents`: the driver has these of every image.
    facts = np.zeros(total, [(name, FACTS[name]) for name in FACTS.names or () if name != "content"])
    contents = np.zeros((total, 32), np.uint8)
    accepted = done = 0
    with spool.open("wb") as file:
        result: Examined
        for result in run(examine, _chunks(source.entries, each), source, rules):
            shapes = result.shapes | shapes
            _check_shapes(shapes)
            file.write(result.pixels.reshape(-1).data)
            stop = accepted + len(result.facts)
            for name in facts.dtype.names or ():
                facts[name][accepted:stop] = result.facts[name]
            accepted = stop
            contents[result.facts["row"]] = np.ascontiguousarray(result.facts["content"]).view(np.uint8).reshape(-1, 32)
            for row, refusal, content in result.refused:
                refused.append(refusal)
                contents[row] = np.frombuffer(content, np.uint8)
            done += len(result.facts) + len(result.refused)
            advance(done, total)
    if not shapes:
        reasons = ", ".join(sorted({refusal.reason for refusal in refused}))
        raise UserError(f"{settings.source.path}: none of {total:,} images can be used ({reasons})")
    height, width, channels = next(iter(shapes))
    raw = digest_of(source.entries, source.refused, (content.tobytes() for content in contents))
    return Survey(source, facts[:accepted], contents, refused, (height, width, channels), raw, spool)


def here(function: Callable[..., Any], inputs: Iterable[tuple[Any, ...]], *shared: Any) -> Iterator[Any]:
    """Does in this process what `cluster.spread.stream` does in several."""
    return (function(*values, *shared) for values in inputs)


def _bytes_of_one(source: Source, rules: Rules) -> int:
    """Bytes of an image made uniform: where no size is set, those of the first that can be used, for all must be alike."""
    if rules.size:
        return rules.size**2 * (rules.channels or 3)
    for row, entry in enumerate(source.entries):
        found = examine(row, [entry], source, rules)
        if len(found.facts):
            _check_shapes(found.shapes)
            return found.pixels.nbytes
    return 1


def _chunks(entries: Entries, each: int) -> Iterator[tuple[int, list[Entry]]]:
    most = max(1, min(_CHUNK_ROWS, (_CHUNK_PIXEL_MB << 20) // each))
    start, size = 0, 0
    for row, entry in enumerate(entries):
        if row > start and (row - start == most or size + entry.size > _CHUNK_FILE_MB << 20):
            yield start, entries[start:row]
            start, size = row, 0
        size += entry.size
    if start < len(entries):
        yield start, entries[start:]


def _check_shapes(shapes: dict[tuple[int, ...], str]) -> None:
    if len(shapes) > 1:
        some = ", ".join(f"{name} ({'x'.join(map(str, shape))})" for shape, name in sorted(shapes.items())[:3])
        wanted = "image_size" if len({shape[:2] for shape in shapes}) > 1 else "channels"
        raise UserError(f"images differ in height, width or channels: {some}; set preprocess.{wanted} in params.yaml")
    for shape, name in shapes.items():
        if max(shape[:2]) > _LARGEST:
            raise UserError(
                f"{name} has {shape[0]} x {shape[1]} pixels; set preprocess.image_size in params.yaml (up to {_LARGEST})"
            )


def _check_room(spool: Path, needed: int) -> None:
    free = shutil.disk_usage(spool.parent).free
    if 2 * needed > free:
        raise UserError(
            f"{spool.parent}: decoded images and shards need {2 * needed >> 20:,} MiB of disk, {free >> 20:,} are free; "
            "make room or lower preprocess.image_size"
        )
