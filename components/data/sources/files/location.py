"""The folder that a location names, and an explanation when there is none."""

from __future__ import annotations

import difflib
from pathlib import Path, PurePosixPath

from components.data.sources.base import name_some
from components.data.sources.files.remote_tree import RemoteTree
from components.data.sources.files.tree import FileTree, LocalTree
from components.errors import UserError

SOURCE_KEY = "preprocess.source.path"
"""Key of the raw images in `params.yaml`, with which messages begin unless another is passed."""
_TABLES = {".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx"}
_FOREIGN_ARCHIVES = {".7z", ".rar", ".gz", ".bz2", ".xz", ".zst", ".lz4", ".lzma"}


def open_tree(location: str, key: str = SOURCE_KEY) -> FileTree:
    """Open a local folder or an fsspec URL of a folder.

    Raises:
        UserError: there is no such folder; names the nearest that exists.
    """
    path = get_local_path(location)
    if path is None:
        return _open_remote(location, key)
    if not path.is_dir():
        raise UserError(explain_missing(location, path, key=key))
    return LocalTree(path)


def check_file(location: str, key: str = SOURCE_KEY) -> None:
    """Raise `UserError` if a location names a file of this machine that does not exist."""
    path = get_local_path(location)
    if path is not None and not path.exists():
        raise UserError(explain_missing(location, path, "file", key))


def get_local_path(location: str) -> Path | None:
    """Return the path that a location names on this machine, or None for a URL of elsewhere."""
    scheme, separator, url_path = location.partition("://")
    if separator and scheme not in ("file", "local"):
        return None
    return Path(url_path if separator else location)


def explain_missing(location: str, path: Path, kind: str = "folder", key: str = SOURCE_KEY) -> str:
    """Return the message for a path that is no `kind`: what is there, and what to write instead."""
    if path.is_file():
        return f"{key}: {location} is not a folder but a file; {_advise_for_file(path)}"
    start = f"{key}: {location} is not a {kind}"
    if location.startswith("~"):
        return f"{start}: ~ is not expanded; write {path.expanduser()}"
    if "$" in location:
        return f"{start}: variables such as $HOME are not expanded; write the path out"
    if "\\" in location and (turned := location.replace("\\", "/")) and Path(turned).exists():
        return f"{start}: paths have forward slashes; write {turned}"
    nearest = _find_nearest(path)
    if any(character in location for character in "*?["):
        return f"{start}: patterns are not expanded; give the folder itself, such as {nearest}"
    return f"{start}: there is nothing of that name; {_describe_nearest(path, nearest)}"


def _advise_for_file(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        return f"for a table of images give kind: csv, path: {path.parent}, table: {path.name}"
    if suffix == ".parquet":
        return "for Parquet files give kind: parquet"
    if suffix in _FOREIGN_ARCHIVES:
        return "unpack it, or pack it as .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz"
    return f"give a folder, such as {path.parent}, or an archive (.zip, .tar, .tar.gz)"


def _find_nearest(path: Path) -> Path:
    """Return the deepest folder on the way to a path that exists."""
    return next((parent for parent in path.parents if parent.is_dir()), Path())


def _describe_nearest(path: Path, nearest: Path) -> str:
    """Name the nearest folder, and the names in it that resemble the one that is missing."""
    try:
        names = sorted(item.name for item in nearest.iterdir() if not item.name.startswith("."))
    except OSError:
        return f"the nearest folder that exists is {nearest}, which cannot be read"
    missing = path.parts[len(nearest.parts)]
    similar = _find_similar(missing, names)
    if similar:
        return f"did you mean {nearest / similar}?"
    content = f"which holds {name_some(names)}" if names else "which is empty"
    return f"the nearest folder that exists is {nearest.absolute()}, {content}"


def _find_similar(name: str, names: list[str]) -> str | None:
    by_key = {other.casefold(): other for other in names}
    matches = difflib.get_close_matches(name.casefold(), list(by_key), n=1)
    return by_key[matches[0]] if matches else None


def _open_remote(location: str, key: str) -> RemoteTree:
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(location)
        if fs.isdir(root):
            return RemoteTree(fs, root)
        detail = "it is a file" if fs.isfile(root) else "there is no such folder"
        parents = [str(parent) for parent in PurePosixPath(root).parents]
        nearest = next((p for p in parents if p not in ("/", ".") and fs.isdir(p)), None)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{key}: {location} cannot be read: {error}") from None
    hint = f"; the nearest that exists is {fs.unstrip_protocol(nearest)}" if nearest else ""
    raise UserError(f"{key}: {location} cannot be read: {detail}{hint}")
