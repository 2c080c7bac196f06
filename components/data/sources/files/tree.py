"""Files of a folder, and their listing. No file outside the folder is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from components.data.sources.base import Refusal, is_printable
from components.data.sources.files.kinds import HEAD_BYTES, is_skipped

# O_NONBLOCK: opening a pipe does not wait for a writer.
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FileInfo(NamedTuple):
    """Path of a regular file, relative to its tree, and its size in bytes."""

    path: str
    size: int


class FileListing(NamedTuple):
    """Regular files, refused files and folders of a tree; each list is sorted by path.

    `skipped` are hidden files and folders and those of operating systems; a path of a folder ends
    with `/`, and its content is not listed. So does that of a refused folder.
    """

    files: list[FileInfo]
    refused: list[Refusal]
    folders: list[str]
    skipped: list[str]


class FileTree(Protocol):
    """A folder that is read by relative paths with forward slashes."""

    shareable: bool

    def list_files(self) -> FileListing:
        """List the tree recursively."""

    def read(self, path: str, max_bytes: int) -> bytes | Refusal:
        """Return the content of a listed file, or the reason why it is not read."""

    def read_heads(self, paths: Sequence[str]) -> list[bytes]:
        """Return the first `HEAD_BYTES` of each listed file; nothing if it cannot be read."""

    def contains(self, path: str) -> bool:
        """Return True if a path stays in the tree after all links are resolved."""


class LocalTree:
    """A folder of the local file system."""

    shareable = True

    def __init__(self, root: Path) -> None:
        self.root = str(root.resolve())

    def list_files(self) -> FileListing:
        files: list[FileInfo] = []
        refused: list[Refusal] = []
        folders: list[str] = []
        skipped: list[str] = []
        for prefix, item in self._scan(refused):
            path = prefix + item.name
            if is_skipped(item.name):
                skipped.append(f"{path}/" if item.is_dir(follow_symlinks=False) else path)
            elif not is_printable(item.name):
                shown = ascii(path)[1:-1] + "/" * item.is_dir(follow_symlinks=False)
                refused.append(Refusal(shown, "name", "the name is not printable text"))
            elif item.is_symlink():
                match self._resolve_link(path):
                    case FileInfo() as file:
                        files.append(file)
                    case refusal:
                        refused.append(refusal)
            elif item.is_dir():
                folders.append(path)
            elif item.is_file():
                files.append(FileInfo(path, item.stat(follow_symlinks=False).st_size))
            else:
                refused.append(_refuse_special_file(path, item.stat(follow_symlinks=False).st_mode))
        return FileListing(sorted(files), sorted(refused), sorted(folders), sorted(skipped))

    def _scan(self, refused: list[Refusal]) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield every item of the tree after the path of its folder (`""` or `"a/b/"`).

        Folders that cannot be read are added to `refused`. Links to folders are not followed, and
        skipped folders are not entered.
        """
        pending = [""]
        while pending:
            prefix = pending.pop()
            try:
                with os.scandir(f"{self.root}/{prefix}") as scan:
                    items = list(scan)
            except OSError as error:
                refused.append(refuse_unreadable(prefix.rstrip("/"), error))
                continue
            for item in items:
                yield prefix, item
                is_folder = item.is_dir(follow_symlinks=False)
                if is_folder and is_printable(item.name) and not is_skipped(item.name):
                    pending.append(f"{prefix}{item.name}/")

    def _resolve_link(self, path: str) -> FileInfo | Refusal:
        """Return a link as the file that it points to, if that is a regular file in the tree."""
        target = Path(os.path.realpath(f"{self.root}/{path}"))
        if not self.contains(path):
            return Refusal(path, "link", "it leads out of the folder")
        if not target.exists():
            return Refusal(path, "link", "it leads nowhere")
        if not target.is_file():
            return Refusal(path, "link", "it does not lead to a file")
        return FileInfo(path, target.stat().st_size)

    def contains(self, path: str) -> bool:
        return os.path.realpath(f"{self.root}/{path}").startswith(self.root + os.sep)

    def read(self, path: str, max_bytes: int) -> bytes | Refusal:
        try:
            descriptor = self._open(path)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    return _refuse_special_file(path, status.st_mode)
                if status.st_size > max_bytes:
                    return refuse_large_file(path, status.st_size, max_bytes)
                content = os.read(descriptor, status.st_size + 1)
                while len(content) < status.st_size and (
                    more := os.read(descriptor, status.st_size - len(content))
                ):
                    content += more
                return content
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            return refuse_unreadable(path, error)

    def read_heads(self, paths: Sequence[str]) -> list[bytes]:
        return [self._read_head(path) for path in paths]

    def _read_head(self, path: str) -> bytes:
        try:
            descriptor = self._open(path)
            try:
                is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
                return os.read(descriptor, HEAD_BYTES) if is_regular else b""
            finally:
                os.close(descriptor)
        except OSError:
            return b""

    def _open(self, path: str) -> int:
        """Return a file descriptor for a path, following a link only to a target in the tree.

        A file may have become a link or a pipe since it was listed: no link is followed out of the
        tree, and opening a pipe does not wait.
        """
        full = f"{self.root}/{path}"
        try:
            return os.open(full, _OPEN_FLAGS)
        except OSError:
            # Resolve the link once, so that the path that is checked is the path that is opened.
            target = os.path.realpath(full)
            if not Path(full).is_symlink() or not target.startswith(self.root + os.sep):
                raise
            return os.open(target, _OPEN_FLAGS)


def find_unhashable_files(location: str) -> list[Refusal]:
    """Return the files in a local folder that DVC cannot hash.

    DVC hangs on pipes and fails on sockets, broken links and names that are not valid text. A
    remote `location` has none of these.
    """
    if "://" in location or not Path(location).is_dir():
        return []

    def is_unhashable(refusal: Refusal) -> bool:
        match refusal.reason:
            case "link":
                return not (Path(location) / refusal.path).exists()
            case "name":
                return "\\udc" in refusal.path
            case reason:
                return reason == "not a file"

    return list(filter(is_unhashable, LocalTree(Path(location)).list_files().refused))


def refuse_large_file(path: str, size: int, max_bytes: int) -> Refusal:
    detail = f"{size:,} bytes or more; preprocess.limits.max_file_mb allows {max_bytes >> 20}"
    return Refusal(path, "file size", detail)


def refuse_unreadable(path: str, error: Exception) -> Refusal:
    detail = error.strerror or "" if isinstance(error, OSError) else str(error)
    return Refusal(path, "unreadable", detail)


def _refuse_special_file(path: str, mode: int) -> Refusal:
    return Refusal(path, "not a file", f"it is a {_name_file_type(mode)}")


def _name_file_type(mode: int) -> str:
    types = {
        stat.S_ISFIFO: "pipe",
        stat.S_ISSOCK: "socket",
        stat.S_ISCHR: "device",
        stat.S_ISBLK: "device",
        stat.S_ISDIR: "folder",
    }
    return next((name for is_type, name in types.items() if is_type(mode)), "thing")
