"""A folder of files, local or behind an address that fsspec knows, of which nothing outside is ever read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from components.data.sources.base import Refusal, printable
from components.errors import UserError

# What operating systems, editors and archivers leave behind.
_LITTER = {"Thumbs.db", "desktop.ini", "__MACOSX"}


class File(NamedTuple):
    path: str
    size: int


class Tree(Protocol):
    """Paths are relative, with slashes. Hidden files and what operating systems leave behind are passed over."""

    shareable: bool

    def walk(self) -> tuple[list[File], list[Refusal], list[str]]:
        """The regular files, what is refused, and the directories; each sorted by path."""

    def read(self, path: str, limit: int) -> bytes | Refusal:
        """A listed file's content, or why it is not read (`limit` in bytes)."""

    def holds(self, path: str) -> bool:
        """Whether a path that was not listed stays in the tree, whatever links are on the way."""


def open_tree(location: str) -> Tree:
    """Raises `UserError` if there is no such folder."""
    scheme, found, rest = location.partition("://")
    if found and scheme not in ("file", "local"):
        return RemoteTree(location)
    path = Path(rest if found else location)
    if not path.is_dir():
        raise UserError(f"preprocess.source.path: {location} is not a folder; give one that is there")
    return LocalTree(path)


class LocalTree:
    shareable = True

    def __init__(self, root: Path) -> None:
        self.root = str(root.resolve())

    def walk(self) -> tuple[list[File], list[Refusal], list[str]]:
        files: list[File] = []
        refused: list[Refusal] = []
        folders: list[str] = []
        for prefix, item in self._items(refused):
            path = prefix + item.name
            if not printable(item.name):
                refused.append(Refusal(ascii(path)[1:-1], "name", "the name is not printable text"))
            elif item.is_symlink():
                self._follow(path, files, refused)
            elif item.is_dir():
                folders.append(path)
            elif not item.is_file():
                refused.append(Refusal(path, "not a file", f"it is a {_kind(item.stat(follow_symlinks=False).st_mode)}"))
            else:
                files.append(File(path, item.stat(follow_symlinks=False).st_size))
        return sorted(files), sorted(refused), sorted(folders)

    def _items(self, refused: list[Refusal]) -> Iterator[tuple[str, os.DirEntry[str]]]:
        pending = [""]
        while pending:
            prefix = pending.pop()
            try:
                with os.scandir(f"{self.root}/{prefix}") as found:
                    items = [item for item in found if not item.name.startswith(".") and item.name not in _LITTER]
            except OSError as error:
                refused.append(_unread(prefix.rstrip("/"), error))
                continue
            for item in items:
                yield prefix, item
                if item.is_dir(follow_symlinks=False) and printable(item.name):
                    pending.append(f"{prefix}{item.name}/")

    def _follow(self, path: str, files: list[File], refused: list[Refusal]) -> None:
        """A link counts as the file that it leads to, if that is one and in the tree."""
        target = os.path.realpath(f"{self.root}/{path}")
        if not self.holds(path):
            refused.append(Refusal(path, "link", "it leads out of the folder"))
        elif not Path(target).exists():
            refused.append(Refusal(path, "link", "it leads nowhere"))
        elif not Path(target).is_file():
            refused.append(Refusal(path, "link", "it does not lead to a file"))
        else:
            files.append(File(path, Path(target).stat().st_size))

    def holds(self, path: str) -> bool:
        return os.path.realpath(f"{self.root}/{path}").startswith(self.root + os.sep)

    def read(self, path: str, limit: int) -> bytes | Refusal:
        # What was a regular file when it was listed may have become a link or a pipe: nothing is followed nor waited for.
        full = f"{self.root}/{path}"
        try:
            try:
                handle = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                target = os.path.realpath(full)
                if not Path(full).is_symlink() or not target.startswith(self.root + os.sep):
                    raise
                handle = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode):
                    return Refusal(path, "not a file", f"it is a {_kind(found.st_mode)}")
                if found.st_size > limit:
                    return too_large(path, found.st_size, limit)
                data = os.read(handle, found.st_size + 1)
                while len(data) < found.st_size and (more := os.read(handle, found.st_size - len(data))):
                    data += more
                return data
            finally:
                os.close(handle)
        except (OSError, ValueError) as error:
            return _unread(path, error)


class RemoteTree:
    """An object store's or another server's folder. There are no links there."""

    def __init__(self, location: str) -> None:
        import fsspec

        try:
            self.fs, self.root = fsspec.core.url_to_fs(location)
            if not self.fs.isdir(self.root):
                raise FileNotFoundError("there is no such folder")
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"preprocess.source.path: {location} cannot be read: {error}") from None
        # Another process has a memory of its own.
        self.shareable = "memory" not in self.fs.protocol

    def walk(self) -> tuple[list[File], list[Refusal], list[str]]:
        files, refused, folders = [], [], set[str]()
        for full, facts in self.fs.find(self.root, detail=True).items():
            path = full[len(self.root) :].lstrip("/")
            parts = PurePosixPath(path).parts
            if any(part.startswith(".") or part in _LITTER for part in parts) and ".." not in parts:
                continue
            if ".." in parts or not printable(path):
                refused.append(Refusal(ascii(path)[1:-1], "name", "the name is not printable text within the folder"))
            else:
                files.append(File(path, facts.get("size") or 0))
                folders.update(str(parent) for parent in PurePosixPath(path).parents if parent.name)
        return sorted(files), sorted(refused), sorted(folders)

    def holds(self, path: str) -> bool:
        return ".." not in PurePosixPath(path).parts

    def read(self, path: str, limit: int) -> bytes | Refusal:
        try:
            with self.fs.open(f"{self.root}/{path}", "rb") as file:
                data: bytes = file.read(limit + 1)
        except (OSError, ValueError) as error:
            return _unread(path, error)
        return too_large(path, len(data), limit) if len(data) > limit else data


def not_for_dvc(location: str) -> list[Refusal]:
    """What in a local folder DVC cannot hash: it waits for ever at a pipe and fails at sockets, broken links and names that
    are not text."""
    if "://" in location or not Path(location).is_dir():
        return []

    def fatal(refusal: Refusal) -> bool:
        if refusal.reason == "link":
            return not (Path(location) / refusal.path).exists()
        return refusal.reason == "not a file" or (refusal.reason == "name" and "\\udc" in refusal.path)

    return list(filter(fatal, LocalTree(Path(location)).walk()[1]))


def too_large(path: str, size: int, limit: int) -> Refusal:
    return Refusal(path, "file size", f"{size:,} bytes or more; preprocess.limits.max_file_mb allows {limit >> 20}")


def _unread(path: str, error: Exception) -> Refusal:
    return Refusal(path, "unreadable", error.strerror or "" if isinstance(error, OSError) else str(error))


def _kind(mode: int) -> str:
    names = {stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket", stat.S_ISCHR: "device", stat.S_ISBLK: "device"}
    return next((name for test, name in names.items() if test(mode)), "folder" if stat.S_ISDIR(mode) else "thing")
