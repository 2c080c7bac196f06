"""Record of the last run's splits, to report how many images changed theirs.

It is a file outside the stage's outs. They depend on the inputs alone, and DVC deletes the former
outs before a stage runs.
"""

from __future__ import annotations

import hashlib
import zipfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.data.preparation.selection import Selection
from components.data.preparation.survey import Survey
from components.data.sources.base import NO_SPLIT
from components.files import write_bytes

_NO_KEYS = np.empty(0, np.uint64)
_NO_SPLITS = np.empty(0, np.int8)


class Moves(NamedTuple):
    """Number of images that the last run knew, and of those that changed their split."""

    known: int
    moved: int


def locate_record(folder: Path, source_path: str, out: Path) -> Path:
    """Return the file of the record of one source and one folder of prepared splits."""
    name = f"{source_path}\0{out.resolve()}".encode("utf-8", "surrogateescape")
    return folder / f"{hashlib.sha256(name).hexdigest()[:16]}.npz"


def update_record(path: Path, survey: Survey, selection: Selection) -> Moves:
    """Replace the record by the splits of this run; return the comparison with the last run.

    A missing or damaged record counts as no image known. A record that cannot be written is no
    error, because only the comparison is lost.
    """
    used = np.flatnonzero(selection.splits != NO_SPLIT)
    content = np.ascontiguousarray(survey.content_digests[survey.facts["row"][used], :8])
    # Eight bytes of a SHA-256: a collision would only change the count by one.
    keys, first = np.unique(content.view(">u8").reshape(-1), return_index=True)
    keys = keys.astype(np.uint64)
    splits = selection.splits[used][first]
    old_keys, old_splits = _read(path)
    _, new_rows, old_rows = np.intersect1d(keys, old_keys, assume_unique=True, return_indices=True)
    moved = int((splits[new_rows] != old_splits[old_rows]).sum())
    data = BytesIO()
    np.savez(data, keys=keys, splits=splits)
    with suppress(OSError):
        write_bytes(path, data.getvalue())
    return Moves(len(new_rows), moved)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return digests, `uint64 (N,)`, and splits, `int8 (N,)`; empty if there is no record."""
    try:
        with np.load(path, allow_pickle=False) as record:
            keys = record["keys"]
            splits = record["splits"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return _NO_KEYS, _NO_SPLITS
    valid = keys.dtype == np.uint64 and splits.dtype == np.int8 and keys.shape == splits.shape
    if not valid or keys.ndim != 1 or len(np.unique(keys)) != len(keys):
        return _NO_KEYS, _NO_SPLITS
    return keys, splits
