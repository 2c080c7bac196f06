"""Named blobs in a local folder or in an object store: checkpoints, probes of shared storage."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import Protocol

import pyarrow as pa
from pyarrow import fs

from components.errors import UserError
from components.files import write_bytes
from components.redaction import redact


class BlobStore(Protocol):
    """A flat set of named blobs. `uri` is where they are, without credentials.

    `put` is atomic: a reader finds the old blob or the new one. Every method may raise `OSError`.
    """

    uri: str

    def put(self, name: str, data: bytes) -> None: ...
    def get(self, name: str) -> bytes: ...
    def names(self) -> list[str]: ...
    def delete(self, name: str) -> None: ...
    def clear(self) -> None: ...


class LocalStore:
    """Files in one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uri = str(path)

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


class ObjectStore:
    """Objects below a prefix, on any filesystem of `pyarrow.fs`.

    Object stores show an object only once its upload is complete, so `put` is atomic.
    """

    def __init__(self, url: str) -> None:
        self.uri = redact(url.partition("?")[0])  # the query may hold credentials
        try:
            self.filesystem, path = fs.FileSystem.from_uri(url)
        except (pa.ArrowException, ValueError, OSError, ImportError) as error:
            reason = redact(str(error))
            raise UserError(f"the storage {self.uri} cannot be used: {reason}") from None
        self.path = PurePosixPath(path)

    def put(self, name: str, data: bytes) -> None:
        self.filesystem.create_dir(str(self.path), recursive=True)
        with self.filesystem.open_output_stream(str(self.path / name)) as stream:
            stream.write(data)

    def get(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(str(self.path / name)) as stream:
            data: bytes = stream.read()
            return data

    def names(self) -> list[str]:
        selector = fs.FileSelector(str(self.path), allow_not_found=True)
        return [info.base_name for info in self.filesystem.get_file_info(selector)]

    def delete(self, name: str) -> None:
        self.filesystem.delete_file(str(self.path / name))

    def clear(self) -> None:
        if self.names():
            self.filesystem.delete_dir(str(self.path))


def join_uri(storage: str, *names: str) -> str:
    """Append names to a path or a URL. A URL keeps its query."""
    base, mark, query = storage.partition("?") if "://" in storage else (storage, "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + query


def open_store(storage: str, *names: str) -> BlobStore:
    """Open the store below a path or a URL (`s3://bucket/prefix`).

    Raises:
        UserError: `pyarrow.fs` does not know this kind of URL.
    """
    location = join_uri(storage, *names)
    return ObjectStore(location) if "://" in location else LocalStore(Path(location))
