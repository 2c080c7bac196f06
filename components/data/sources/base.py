"""What a source is: entries that name images, and a way to their content."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

SPLITS = ("train", "val", "test")


class Entry(NamedTuple):
    """One image of a source. `id` is unique and printable; `key` is the source's own way to it; `size` in bytes, if known."""

    id: str
    label: str
    split: str = ""
    group: str = ""
    key: Any = None
    size: int = 0


class Refusal(NamedTuple):
    """An image that is not used, and why: a line of `quarantine.csv`. `digest` is its content's SHA-256, if it was read."""

    path: str
    reason: str
    detail: str = ""
    digest: str = ""


class Source(ABC):
    """A set of labelled images. To add a kind: a module with a subclass, a line in `components.data.sources`, a section in
    `components.params`."""

    entries: list[Entry]
    refused: list[Refusal]
    # The order of the classes; empty: that of their names.
    classes: Sequence[str] = ()
    # The list of classes is the source's own, and stands even where there is no image of one.
    complete: bool = False
    # Names that hold no image at all.
    empty: Sequence[str] = ()
    # Content is encoded image files, decoded apart; else arrays.
    encoded: bool = True
    # Where an archive's files are; gone with the source.
    unpacked: TemporaryDirectory[str] | None = None
    # Another process, on whatever node, can read it.
    shareable: bool = True

    @abstractmethod
    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | np.ndarray | Refusal]:
        """The content of each: an image file, or `uint8 (H, W, C)`, or why there is none. Called in several processes."""

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process reads what it is told to; the list would be a weight on every task."""
        kept_here = ("entries", "refused", "classes", "empty", "unpacked")
        return {key: value for key, value in vars(self).items() if key not in kept_here}

    @cached_property
    def sha256(self) -> str:
        """Digest of the content: ids, labels, given splits and groups, and each image, however files held them."""
        return digest_of(self.entries, self.refused, map(content_digest, self.read(self.entries)))


def content_digest(content: bytes | np.ndarray | Refusal) -> bytes:
    if isinstance(content, np.ndarray):
        return hashlib.sha256(repr(content.shape).encode() + np.ascontiguousarray(content).tobytes()).digest()
    return hashlib.sha256(content).digest() if isinstance(content, bytes) else bytes(32)


def digest_of(entries: Iterable[Entry], refused: Iterable[Refusal], contents: Iterable[bytes]) -> str:
    """Digest of a source, given that of each entry's content (zeros where it could not be read)."""
    digest = hashlib.sha256()
    for entry, content in zip(entries, contents, strict=True):
        digest.update("\0".join([entry.id, entry.label, entry.split, entry.group, ""]).encode("utf-8", "surrogateescape"))
        digest.update(content)
    for path in sorted(refusal.path for refusal in refused):
        digest.update(path.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def printable(name: str) -> bool:
    """Whether a name is text that a table, a terminal and a manifest can carry."""
    return name.isprintable() and not any("\ud800" <= character <= "\udfff" for character in name)
