"""Files of a folder on any fsspec file system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from components.data.sources.base import Refusal, is_printable
from components.data.sources.files.kinds import HEAD_BYTES, is_skipped
from components.data.sources.files.tree import (
    FileInfo,
    FileListing,
    refuse_large_file,
    refuse_unreadable,
)

if TYPE_CHECKING:
    import fsspec


class RemoteTree:
    """A folder of an object store or another server. These file systems have no links."""

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str) -> None:
        self.fs, self.root = fs, root
        # Each process has its own `memory://`.
        self.shareable = "memory" not in self.fs.protocol

    def list_files(self) -> FileListing:
        files: list[FileInfo] = []
        refused: list[Refusal] = []
        folders: set[str] = set()
        skipped: set[str] = set()
        for full, info in self.fs.find(self.root, detail=True).items():
            path = full[len(self.root) :].lstrip("/")
            parts = PurePosixPath(path).parts
            first_skipped = next((n for n, part in enumerate(parts) if is_skipped(part)), None)
            if ".." in parts or (first_skipped is None and not is_printable(path)):
                detail = "the name is not printable text within the folder"
                refused.append(Refusal(ascii(path)[1:-1], "name", detail))
            elif first_skipped is not None:
                is_folder = first_skipped + 1 < len(parts)
                skipped.add("/".join(parts[: first_skipped + 1]) + "/" * is_folder)
            else:
                files.append(FileInfo(path, info.get("size") or 0))
                folders.update(str(parent) for parent in PurePosixPath(path).parents if parent.name)
        return FileListing(sorted(files), sorted(refused), sorted(folders), sorted(skipped))

    def read_heads(self, paths: Sequence[str]) -> list[bytes]:
        full = [f"{self.root}/{path}" for path in paths]
        # One call for all files: file systems that are asynchronous read them at the same time.
        heads = self.fs.cat_ranges(full, 0, HEAD_BYTES, on_error="return") if full else []
        return [head if isinstance(head, bytes) else b"" for head in heads]

    def contains(self, path: str) -> bool:
        return ".." not in PurePosixPath(path).parts

    def read(self, path: str, max_bytes: int) -> bytes | Refusal:
        try:
            with self.fs.open(f"{self.root}/{path}", "rb") as file:
                content: bytes = file.read(max_bytes + 1)
        except (OSError, ValueError) as error:
            return refuse_unreadable(path, error)
        if len(content) > max_bytes:
            return refuse_large_file(path, len(content), max_bytes)
        return content
