"""What a source is: entries that name images, and a way to their content."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, overload

import numpy as np

SPLITS = ("train", "val", "test")
# In place of an index into SPLITS: in none of them, or not said.
NONE = -1


class Entry(NamedTuple):
    """One image of a source. `id` is unique and printable, and the source's own way to it; `size` in bytes, if known."""

    id: str
    label: str
    split: str = ""
    group: str = ""
    size: int = 0


class Names:
    """Strings that repeat, as numbers (`codes`) into those that there are (`names`)."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._number: dict[str, int] = {}
        self._codes = array("i")

    def append(self, name: str) -> None:
        number = self._number.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
        self._codes.append(number)

    def __getitem__(self, row: int) -> str:
        return self.names[self._codes[row]]

    @property
    def codes(self) -> np.ndarray:
        """`int32 (N,)`."""
        return np.array(self._codes, np.int32)


class Entries(Sequence[Entry]):
    """Entries, packed: the driver holds all of a source's, and as tuples of strings they would take five times the memory."""

    def __init__(self, rows: Iterable[Entry] = ()) -> None:
        self.labels, self.groups = Names(), Names()
        self._ids, self._ends, self._splits, self._sizes = bytearray(), array("q"), array("b"), array("q")
        self.extend(rows)

    def extend(self, rows: Iterable[Entry]) -> None:
        for row in rows:
            self.append(row)

    def append(self, row: Entry) -> None:
        self._ids += row.id.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._ids))
        self._splits.append(SPLITS.index(row.split) if row.split else NONE)
        self._sizes.append(row.size)
        self.labels.append(row.label)
        self.groups.append(row.group)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> list[Entry]: ...
    def __getitem__(self, at: int | slice) -> Entry | list[Entry]:
        if isinstance(at, slice):
            return [self[row] for row in range(len(self))[at]]
        row = range(len(self))[at]
        name = self._ids[self._ends[row - 1] if row else 0 : self._ends[row]].decode("utf-8", "surrogateescape")
        split = self._splits[row]
        return Entry(name, self.labels[row], "" if split == NONE else SPLITS[split], self.groups[row], self._sizes[row])

    @property
    def splits(self) -> np.ndarray:
        """`int8 (N,)`, indices into SPLITS, NONE where the source gives none."""
        return np.array(self._splits, np.int8)

    @property
    def size(self) -> int:
        """Bytes, as far as known."""
        return sum(self._sizes)


def number_of(entry: Entry) -> int:
    """Row of an image whose id ends with it, `train/17`."""
    return int(entry.id.rpartition("/")[2])


class Refusal(NamedTuple):
    """An image that is not used, and why: a line of `quarantine.csv`. `digest` is its content's SHA-256, if it was read."""

    path: str
    reason: str
    detail: str = ""
    digest: str = ""


class Source(ABC):
    """A set of labelled images. To add a kind: a module with a subclass, a line in `components.data.sources`, a section in
    `components.params`."""

    entries: Entries
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
