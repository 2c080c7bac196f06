"""The check that the raw images are there, before DVC or a stage reads them."""

from __future__ import annotations

import os
from pathlib import Path

from components.data.sources.files.archive import is_archive
from components.data.sources.files.location import explain_missing, get_local_path, open_tree
from components.errors import UserError
from components.params import CsvSource, ImageFolderSource, Source, TorchvisionSource


def check_present(source: Source) -> None:
    """Check that the path of a source exists, can be read and is not an empty folder.

    Raises:
        UserError: it does not. The message names what is there instead, or the command that
            fetches it.
    """
    path = get_local_path(source.path)
    if path is None:
        # An archive is a file; `unpack` reports one that cannot be read.
        if isinstance(source, ImageFolderSource | CsvSource) and not is_archive(source.path):
            open_tree(source.path)
        return
    try:
        reason = _find_problem(path, isinstance(source, TorchvisionSource))
    except PermissionError:
        reason = "you may not read it; change its permissions"
    if reason:
        raise UserError(f"preprocess.source.path: {source.path}: {reason}")
    if not path.exists():
        raise UserError(explain_missing(source.path, path, "file or folder"))


def _find_problem(path: Path, may_be_empty: bool) -> str | None:
    tracked = Path(f"{path}.dvc")
    fetch = f"DVC tracks it: `dvc pull {tracked}` fetches it" if tracked.exists() else ""
    if not path.exists():
        if path.is_symlink():
            return fetch or f"it is a link to {path.readlink()}, which does not exist"
        return fetch or None
    if path.is_dir():
        # A .gitignore stands beside what DVC tracks.
        empty = all(entry.name.startswith(".") for entry in path.iterdir())
        if empty and not may_be_empty:
            return f"the folder is empty; {fetch or 'put the images there'}"
    elif not os.access(path, os.R_OK):
        raise PermissionError
    return None
