"""Files that the paths of a table mean: exact paths, ids without an extension, other notations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.data.sources.base import name_some
from components.data.sources.files.kinds import IMAGE_EXTENSIONS
from components.data.sources.files.tree import FileInfo
from components.errors import UserError

_EXTENSION = rf"(?i)^(?P<stem>.*)\.(?P<extension>{'|'.join(sorted(IMAGE_EXTENSIONS))})$"
NOT_FOUND = -1


class AmbiguousPathError(UserError):
    """Several files fit a path of the table."""

    def __init__(self, path: str, names: list[str], count: int) -> None:
        others = f" ({count:,} rows are like that)" if count > 1 else ""
        super().__init__(
            f"several files fit the path {path!r}: {name_some(names)}{others}; write the extension "
            "in the table, or name one folder in preprocess.source.image_folder"
        )


class FileIndex:
    """Paths and sizes of the files below a folder, in compact columns."""

    def __init__(self, paths: pa.Array, sizes: np.ndarray) -> None:
        self.paths = paths
        self.sizes = sizes

    @classmethod
    def from_files(cls, files: Sequence[FileInfo]) -> FileIndex:
        paths = pa.array([path for path, _ in files], pa.large_string())
        return cls(paths, np.fromiter((size for _, size in files), np.int64, len(files)))

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def without_extension(self) -> pa.Array:
        return remove_extension(self.paths)

    @cached_property
    def lower_extension(self) -> pa.Array:
        return _lower_extension(self.paths)

    @cached_property
    def composed(self) -> FileIndex:
        """The same files with composed characters (NFC); macOS decomposes letters with accents."""
        return FileIndex(pc.utf8_normalize(self.paths, "NFC"), self.sizes)

    def get_names(self, positions: Iterable[int]) -> list[str]:
        return [self.paths[int(position)].as_py() for position in positions]


class Resolution(NamedTuple):
    """The path that was sought for each row, and the position of its file or NOT_FOUND."""

    tried: pa.Array
    files: np.ndarray


def normalize_paths(paths: pd.Series) -> pa.Array:
    """Return paths with forward slashes, without `./` and repeated slashes."""
    column = pa.array(paths, pa.large_string())
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    column = pc.replace_substring(column, "\\", "/")
    column = pc.replace_substring_regex(column, r"/(\.?/)+", "/")
    return pc.replace_substring_regex(column, r"^(\./)+", "")


def resolve(
    paths: pa.Array, files: FileIndex, prefix: str | None, folders: Sequence[str] | None
) -> Resolution:
    """Find the file of each path.

    Args:
        paths: As `normalize_paths` returns them.
        prefix: Leading folders that are removed from the paths.
        folders: Folders in which the paths start.

    Raises:
        AmbiguousPathError: several files fit a path.
    """
    if prefix:
        paths = remove_prefix(paths, prefix)
    tried = None
    found = np.full(len(paths), NOT_FOUND, np.int64)
    for folder in folders or [""]:
        candidates = _join(folder, paths)
        tried = candidates if tried is None else tried
        matches = _match(candidates, files)
        both = np.flatnonzero((found != NOT_FOUND) & (matches != NOT_FOUND) & (found != matches))
        if len(both):
            row = int(both[0])
            names = files.get_names([found[row], matches[row]])
            raise AmbiguousPathError(paths[row].as_py(), names, len(both))
        found = np.where(found == NOT_FOUND, matches, found)
    assert tried is not None
    return Resolution(tried, found)


def remove_prefix(paths: pa.Array, prefix: str) -> pa.Array:
    """Return paths without their leading folders `prefix`; others are as they were."""
    start = normalize_paths(pd.Series([prefix], dtype="str"))[0].as_py().rstrip("/") + "/"
    rest = pc.utf8_slice_codeunits(paths, len(start))
    return pc.if_else(pc.starts_with(paths, start), rest, paths)


def _join(folder: str, paths: pa.Array) -> pa.Array:
    """Return paths below a folder; absolute ones are as they were."""
    folder = normalize_paths(pd.Series([folder], dtype="str"))[0].as_py().strip("/")
    if folder in ("", "."):
        return paths
    absolute = pc.match_substring_regex(paths, r"^(/|[A-Za-z]:/)")
    return pc.if_else(absolute, paths, _concatenate(f"{folder}/", paths))


def _match(paths: pa.Array, files: FileIndex) -> np.ndarray:
    """Return the position of each path's file, or NOT_FOUND; exact paths come first.

    Others are sought with composed characters, and with the characters that `%20` stands for.
    """
    found = _match_notations(paths, files)
    rows = np.flatnonzero(found == NOT_FOUND)
    missing = paths.take(pa.array(rows))
    if not pc.all(pc.string_is_ascii(missing)).as_py():
        found[rows] = _match_notations(pc.utf8_normalize(missing, "NFC"), files.composed)
        rows = np.flatnonzero(found == NOT_FOUND)
        missing = paths.take(pa.array(rows))
    if pc.any(pc.match_substring(missing, "%")).as_py():
        decoded = pa.array([unquote(path) for path in missing.to_pylist()], pa.large_string())
        found[rows] = _match_notations(pc.utf8_normalize(decoded, "NFC"), files.composed)
    return found


def _match_notations(paths: pa.Array, files: FileIndex) -> np.ndarray:
    """Find paths as they are, ids without an extension, and extensions in another case.

    A number may end in `.0`, as pandas writes it in a column with empty cells.
    """
    found = _find(paths, files.paths)
    rows = np.flatnonzero(found == NOT_FOUND)
    if not len(rows):
        return found
    missing = paths.take(pa.array(rows))
    has_extension = pc.match_substring_regex(missing, _EXTENSION)
    ids = pc.if_else(has_extension, pa.scalar(None, pa.large_string()), missing)
    for sought, keys in (
        (ids, files.without_extension),
        (pc.replace_substring_regex(ids, r"(^|/)(\d+)\.0$", r"\1\2"), files.without_extension),
        (_lower_extension(missing), files.lower_extension),
    ):
        positions = _find(sought, keys)
        _check_unique(missing, positions, keys, files)
        found[rows] = np.where(found[rows] == NOT_FOUND, positions, found[rows])
    return found


def _find(sought: pa.Array, keys: pa.Array) -> np.ndarray:
    """Return the first position of each value in `keys`, or NOT_FOUND."""
    found = pc.fill_null(pc.index_in(sought, keys, skip_nulls=True), NOT_FOUND)
    positions: np.ndarray = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return positions


def _check_unique(paths: pa.Array, positions: np.ndarray, keys: pa.Array, files: FileIndex) -> None:
    """Raise `AmbiguousPathError` if the key of a position that was found occurs again."""
    matched = np.flatnonzero(positions != NOT_FOUND)
    if not len(matched):
        return
    codes = keys.dictionary_encode().indices.to_numpy()
    repeated = np.bincount(codes)[codes] > 1
    several = matched[repeated[positions[matched]]]
    if len(several):
        same = np.flatnonzero(codes == codes[positions[several[0]]])
        path = paths[int(several[0])].as_py()
        raise AmbiguousPathError(path, files.get_names(same), len(several))


def remove_extension(paths: pa.Array) -> pa.Array:
    """Return paths without the extensions of images; others are as they were."""
    return pc.replace_substring_regex(paths, _EXTENSION, r"\1")


def _lower_extension(paths: pa.Array) -> pa.Array:
    parts = pc.extract_regex(paths, _EXTENSION)
    extension = pc.utf8_lower(pc.struct_field(parts, "extension"))
    joined = _concatenate(pc.struct_field(parts, "stem"), ".", extension)
    return pc.if_else(pc.is_valid(parts), joined, paths)


def _concatenate(*parts: pa.Array | str) -> pa.Array:
    """Return the elements of columns one behind the other; a string is the same in each row."""
    kind = pa.large_string()
    columns = [pa.scalar(part, kind) if isinstance(part, str) else part for part in parts]
    return pc.binary_join_element_wise(*columns, pa.scalar("", kind))
