"""The interface of an image source: a list of labelled images and a way to read their content."""

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
# Used instead of an index into SPLITS: the image is in no split, or the source does not assign one.
NO_SPLIT = -1


class ImageEntry(NamedTuple):
    """One image of a source.

    `id` is unique and printable, and the source reads the image by it. `split` and `group` are
    empty if the source assigns none. `size` is in bytes, 0 if unknown.
    """

    id: str
    label: str
    split: str = ""
    group: str = ""
    size: int = 0


class CategoricalColumn:
    """A column of strings, stored as integer `codes` into its distinct values (`categories`)."""

    def __init__(self) -> None:
        self.categories: list[str] = []
        self._code_of: dict[str, int] = {}
        self._codes = array("i")

    def append(self, value: str) -> None:
        code = self._code_of.setdefault(value, len(self.categories))
        if code == len(self.categories):
            self.categories.append(value)
        self._codes.append(code)

    def __getitem__(self, row: int) -> str:
        return self.categories[self._codes[row]]

    @property
    def codes(self) -> np.ndarray:
        """Index into `categories` of each row, `int32 (N,)`."""
        return np.array(self._codes, np.int32)


class ImageEntries(Sequence[ImageEntry]):
    """A compact sequence of entries.

    The driver holds every entry of a source. Tuples of strings would take five times the memory.
    """

    def __init__(self, entries: Iterable[ImageEntry] = ()) -> None:
        self.labels = CategoricalColumn()
        self.groups = CategoricalColumn()
        self._ids = bytearray()
        self._id_ends = array("q")
        self._splits = array("b")
        self._sizes = array("q")
        self.extend(entries)

    def extend(self, entries: Iterable[ImageEntry]) -> None:
        for entry in entries:
            self.append(entry)

    def append(self, entry: ImageEntry) -> None:
        self._ids += entry.id.encode("utf-8", "surrogateescape")
        self._id_ends.append(len(self._ids))
        self._splits.append(SPLITS.index(entry.split) if entry.split else NO_SPLIT)
        self._sizes.append(entry.size)
        self.labels.append(entry.label)
        self.groups.append(entry.group)

    def __len__(self) -> int:
        return len(self._id_ends)

    @overload
    def __getitem__(self, index: int) -> ImageEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageEntry]: ...
    def __getitem__(self, index: int | slice) -> ImageEntry | list[ImageEntry]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        row = range(len(self))[index]
        start = self._id_ends[row - 1] if row else 0
        split = self._splits[row]
        return ImageEntry(
            id=self._ids[start : self._id_ends[row]].decode("utf-8", "surrogateescape"),
            label=self.labels[row],
            split="" if split == NO_SPLIT else SPLITS[split],
            group=self.groups[row],
            size=self._sizes[row],
        )

    @property
    def splits(self) -> np.ndarray:
        """Index into SPLITS of each entry, `int8 (N,)`; NO_SPLIT where the source assigns none."""
        return np.array(self._splits, np.int8)

    @property
    def total_size(self) -> int:
        """Sum of the known sizes, in bytes."""
        return sum(self._sizes)


def parse_row_number(entry: ImageEntry) -> int:
    """Return the number that ends an id such as `train/17`: the row of the image in its file."""
    return int(entry.id.rpartition("/")[2])


class Refusal(NamedTuple):
    """An image that is not used, and the reason; one line of `quarantine.csv`.

    `digest` is the SHA-256 of the content, empty if the content was not read.
    """

    path: str
    reason: str
    detail: str = ""
    digest: str = ""


class IgnoredKind(NamedTuple):
    """Files or folders of one kind that are not images, so that they are neither used nor refused.

    `examples` are the first paths.
    """

    name: str
    number: int
    examples: tuple[str, ...]


class ImageSource(ABC):
    """A set of labelled images.

    A new kind of source needs a module with a subclass, a `case` in `opening.open_source`, and a
    section in `components.params`.
    """

    entries: ImageEntries
    refused: list[Refusal]
    # Classes in the order of their label numbers. If empty, they are sorted by name.
    classes: Sequence[str] = ()
    # True if `classes` is the source's official list, which keeps a class without images.
    fixed_classes: bool = False
    # Classes that the source names but has no image of.
    empty_classes: Sequence[str] = ()
    # Files and folders of the source that are not images, counted by kind.
    ignored: Sequence[IgnoredKind] = ()
    # Facts about the source that the user should see, such as the folder that was taken.
    notes: Sequence[str] = ()
    # True if content is encoded image files, which the sandbox decodes; False if it is arrays.
    encoded: bool = True
    # Folder of an unpacked archive. It is deleted with the source.
    archive_folder: TemporaryDirectory[str] | None = None
    # True if a process on any node can read the source.
    shareable: bool = True

    @abstractmethod
    def read(self, entries: Sequence[ImageEntry]) -> Iterator[bytes | np.ndarray | Refusal]:
        """Yield the content of each entry, in order. Called in several processes.

        Content is an image file, an array `uint8 (H, W, C)`, or a refusal if it cannot be read.
        """

    @property
    def num_listed(self) -> int:
        """Number of images that the source lists, refused ones included."""
        return len(self.entries) + len(self.refused)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the lists of entries.

        Tasks receive the entries that they read. The whole list would be sent with every source.
        """
        driver_only = {"entries", "refused", "classes", "empty_classes", "archive_folder"}
        driver_only |= {"ignored", "notes"}
        return {key: value for key, value in vars(self).items() if key not in driver_only}

    @cached_property
    def sha256(self) -> str:
        """Digest of the source, as `digest_source` defines it. Reads every image."""
        digests = map(digest_content, self.read(self.entries))
        return digest_source(self.entries, self.refused, digests)


def digest_content(content: bytes | np.ndarray | Refusal) -> bytes:
    """Return the SHA-256 of a file or of an array with its shape; zeros for a refusal."""
    match content:
        case Refusal():
            return bytes(32)
        case np.ndarray():
            pixels = np.ascontiguousarray(content).tobytes()
            return hashlib.sha256(repr(content.shape).encode() + pixels).digest()
        case _:
            return hashlib.sha256(content).digest()


def digest_source(
    entries: Iterable[ImageEntry], refused: Iterable[Refusal], content_digests: Iterable[bytes]
) -> str:
    """Return the SHA-256 of a source, in hexadecimal.

    It covers ids, labels, assigned splits, groups, the content of each image and the paths of
    refused files. It does not depend on the files in which the images are stored.

    Args:
        content_digests: `digest_content` of each entry.
    """
    digest = hashlib.sha256()
    for entry, content in zip(entries, content_digests, strict=True):
        fields = "\0".join([entry.id, entry.label, entry.split, entry.group, ""])
        digest.update(fields.encode("utf-8", "surrogateescape"))
        digest.update(content)
    for path in sorted(refusal.path for refusal in refused):
        digest.update(path.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def is_printable(name: str) -> bool:
    """Return True if a name is text that can stand in a table, a terminal and a manifest.

    Surrogates, by which Python represents bytes that are no text, are not printable.
    """
    return name.isprintable()


def name_some(names: Iterable[str], limit: int = 5) -> str:
    """Return the names as a list for a message, cut to `limit` and a count of the others."""
    every = list(names)
    more = f" and {len(every) - limit:,} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more
