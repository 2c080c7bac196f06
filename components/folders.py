"""Folders of named blobs, on a disk or in an object store: where checkpoints live, and where nodes can find each other's."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import Protocol

import pyarrow as pa
from pyarrow import fs

from components.artifacts import write_bytes
from components.errors import UserError


class Folder(Protocol):
    """Named blobs. `put` leaves the old blob or the new one, never half of it; all methods may raise `OSError`."""

    where: str

    def put(self, name: str, data: bytes) -> None: ...
    def get(self, name: str) -> bytes: ...
    def names(self) -> list[str]: ...
    def delete(self, name: str) -> None: ...
    def clear(self) -> None: ...


class Disk:
    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)

    def put(self, name: str, data: bytes) -> None:
        write_bytes(self.path / name, data, durable=True)

    def get(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def names(self) -> list[str]:
        return [p.name for p in self.path.iterdir()] if self.path.is_dir() else []

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class Remote:
    """Any filesystem of pyarrow's. Object stores show a blob once it is whole."""

    def __init__(self, url: str) -> None:
        self.where = url.partition("?")[0]  # what follows may hold credentials
        try:
            self.files, path = fs.FileSystem.from_uri(url)
        except (pa.ArrowException, ValueError, OSError, ImportError) as error:
            raise UserError(f"the storage {self.where} cannot be used: {error}") from None
        self.path = PurePosixPath(path)

    def put(self, name: str, data: bytes) -> None:
        self.files.create_dir(str(self.path), recursive=True)
        with self.files.open_output_stream(str(self.path / name)) as stream:
            stream.write(data)

    def get(self, name: str) -> bytes:
        with self.files.open_input_stream(str(self.path / name)) as stream:
            data: bytes = stream.read()
            return data

    def names(self) -> list[str]:
        found = self.files.get_file_info(fs.FileSelector(str(self.path), allow_not_found=True))
        return [info.base_name for info in found]

    def delete(self, name: str) -> None:
        self.files.delete_file(str(self.path / name))

    def clear(self) -> None:
        if self.names():
            self.files.delete_dir(str(self.path))


def below(storage: str, *names: str) -> str:
    """A path or URL further down in another; a URL keeps its query."""
    base, mark, query = storage.partition("?") if "://" in storage else (storage, "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + query


def folder(storage: str, *names: str) -> Folder:
    """A folder below a path or a URL (`s3://bucket/prefix`).

    Raises:
        UserError: pyarrow knows no such storage.
    """
    path = below(storage, *names)
    return Remote(path) if "://" in path else Disk(Path(path))
