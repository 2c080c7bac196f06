"""Advice for tables whose paths lead to no file: the nearest files, settings that would help."""

from __future__ import annotations

import bisect
import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.data.sources.tables.paths import (
    NOT_FOUND,
    AmbiguousPathError,
    FileIndex,
    Resolution,
    remove_extension,
    resolve,
)
from components.params import CsvSource
from components.printable import escape_unprintable

_MAX_SHOWN = 3
# Bounds of the search for advice, which happens only before an error.
_MAX_ROWS_TRIED = 10_000
_MAX_FOLDERS = 20
_MAX_NEIGHBOURS = 300
_MAX_SAMPLES = 5
_MIN_RENAMED_SHARE = 0.95


class _Proposal(NamedTuple):
    """Settings by which `found` of the examined paths lead to files."""

    found: int
    prefix: str | None
    folders: list[str]


def describe_missing_files(
    paths: pa.Array,
    numbers: pd.Index,
    resolution: Resolution,
    files: FileIndex,
    settings: CsvSource,
) -> str:
    """Return the paths that were tried first, the nearest files, and settings that would help.

    Args:
        paths: Normalised paths of the table.
        numbers: Number of the row of each path.
        resolution: Result of looking for them.
    """
    rows = np.flatnonzero(resolution.files == NOT_FOUND)[:_MAX_SHOWN]
    lines = []
    for row in rows.tolist():
        tried = resolution.tried[row].as_py()
        nearest = _find_nearest(tried, files) or "no file has a similar name"
        if nearest.casefold() == tried.casefold():
            nearest += " (capitals differ)"
        shown = escape_unprintable(tried)
        lines.append(f"  row {numbers[row]}: {shown} -> {nearest}")
    text = "Tried first -> nearest that exists:\n" + "\n".join(lines)
    proposal = _propose(paths, resolution, files)
    if proposal:
        examined = min(len(paths), _MAX_ROWS_TRIED)
        text += (
            f"\nIn preprocess.source of params.yaml set {_format(proposal, settings)}: "
            f"with that {proposal.found:,} of the first {examined:,} rows lead to a file"
        )
    return text


def find_lost_zeros(resolution: Resolution, files: FileIndex) -> list[tuple[int, str]]:
    """Return row and file of each number that is in the names of files with leading zeros only."""
    rows = np.flatnonzero(resolution.files == NOT_FOUND)
    tried = remove_extension(resolution.tried.take(pa.array(rows)))
    numeric = np.flatnonzero(pc.match_substring_regex(tried, r"(^|/)\d+$").to_numpy(False))
    if not len(numeric):
        return []
    stripped = _strip_zeros(files.without_extension)
    stems = tried.take(pa.array(numeric))
    matches = pc.index_in(stems, stripped, skip_nulls=True)
    # Equal stems: the extensions differ, and no zero was lost.
    lost = pc.fill_null(pc.not_equal(files.without_extension.take(matches), stems), False)
    positions = matches.filter(lost).to_pylist()
    lost_rows = rows[numeric][lost.to_numpy(zero_copy_only=False)].tolist()
    return list(zip(lost_rows, files.get_names(positions), strict=True))


def _strip_zeros(stems: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(stems, r"(^|/)0+(\d+)$", r"\1\2")


def _find_nearest(path: str, files: FileIndex) -> str | None:
    """Return the most similar of the paths that are next in order or have the same file name."""
    stem = remove_extension(pa.array([path], pa.large_string()))[0].as_py()
    name = stem.rpartition("/")[2].lstrip("0")
    same_name = pc.match_substring(files.paths, name, ignore_case=True)
    candidates = files.paths.filter(same_name)[:_MAX_NEIGHBOURS].to_pylist() if name else []
    position = bisect.bisect(_SortedPaths(files.paths), path)
    start = max(0, position - _MAX_NEIGHBOURS // 2)
    candidates += files.paths[start : start + _MAX_NEIGHBOURS].to_pylist()
    by_lower_case = {candidate.lower(): candidate for candidate in reversed(candidates)}
    matches = difflib.get_close_matches(path.lower(), list(by_lower_case), n=1, cutoff=0.3)
    return by_lower_case[matches[0]] if matches else next(iter(candidates), None)


class _SortedPaths(Sequence[str]):
    """Sorted paths, as `bisect` reads them."""

    def __init__(self, paths: pa.Array) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.paths[index].as_py()


def _propose(paths: pa.Array, resolution: Resolution, files: FileIndex) -> _Proposal | None:
    """Return the settings that let most of the first rows lead to a file, if any do."""
    missing = paths.filter(pa.array(resolution.files == NOT_FOUND))
    examined = paths[:_MAX_ROWS_TRIED]
    best = None
    candidates = dict.fromkeys(
        candidate
        for path in missing[:_MAX_SAMPLES].to_pylist()
        for candidate in _find_suffixes(path, files)
    )
    trials: list[tuple[str | None, tuple[str, ...]]]
    trials = [(prefix, (folder,)) for prefix, folder in candidates]
    trials += [(None, _find_folders(missing[:_MAX_ROWS_TRIED], files))]
    before = int((resolution.files[:_MAX_ROWS_TRIED] != NOT_FOUND).sum())
    for prefix, folders in trials:
        if len(folders) > _MAX_FOLDERS:
            continue
        try:
            result = resolve(examined, files, prefix, folders)
        except AmbiguousPathError:
            continue
        found = int((result.files != NOT_FOUND).sum())
        # Else one class's folder would be taken for another's: `Dog/1.jpg` for `cat/1.jpg`.
        if prefix and folders != ("",) and found < _MIN_RENAMED_SHARE * len(examined):
            continue
        if 2 * found > len(examined) and found > max(before, best.found if best else 0):
            best = _Proposal(found, prefix, [folder for folder in folders if folder])
    return best


def _find_suffixes(path: str, files: FileIndex) -> Iterator[tuple[str | None, str]]:
    """Yield the leading folders to remove from a path, and the folder in which the rest exists."""
    parts = path.split("/")
    for start in range(len(parts)):
        suffix = "/".join(parts[start:])
        if not suffix:
            continue
        for names in (files.paths, files.without_extension):
            fits = pc.or_(pc.equal(names, suffix), pc.ends_with(names, "/" + suffix))
            for name in names.filter(fits)[:_MAX_SHOWN].to_pylist():
                yield "/".join(parts[:start]) or None, name[: -len(suffix)].rstrip("/")


def _find_folders(paths: pa.Array, files: FileIndex) -> tuple[str, ...]:
    """Return the folders of the files whose names are those of the paths, sorted."""
    names = pc.replace_substring_regex(files.without_extension, r"^.*/", "")
    sought = remove_extension(pc.replace_substring_regex(paths, r"^.*/", ""))
    fits = pc.is_in(names, sought)
    folders = Counter(
        path.rpartition("/")[0] for path in files.paths.filter(fits)[:_MAX_ROWS_TRIED].to_pylist()
    )
    return tuple(sorted(folders))


def _format(proposal: _Proposal, settings: CsvSource) -> str:
    """Return the settings of a proposal as YAML."""
    changes = []
    if proposal.prefix or settings.path_prefix:
        changes.append(f"path_prefix: {proposal.prefix or 'null'}")
    folders = proposal.folders
    if folders or settings.image_folder:
        value = folders[0] if len(folders) == 1 else f"[{', '.join(folders)}]"
        changes.append(f"image_folder: {value if folders else 'null'}")
    return " and ".join(changes)
