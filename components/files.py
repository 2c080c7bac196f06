"""Atomic files and directories, locks between processes, digests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from components.errors import UserError

RETENTION_DAYS = 30
"""Days that abandoned checkpoints and caches are kept: longer than a holiday."""


def stale_paths(paths: Iterable[Path], now: float | None = None) -> list[Path]:
    """Return the files and folders that were last written more than `RETENTION_DAYS` ago.

    A folder counts as written when it or one of its direct children was. `now` is in seconds
    since the epoch.
    """
    limit = (time.time() if now is None else now) - RETENTION_DAYS * 86_400
    stale = []
    for path in paths:
        with suppress(FileNotFoundError):  # another process is deleting it
            children = path.iterdir() if path.is_dir() else ()
            if max(part.stat().st_mtime for part in (path, *children)) < limit:
                stale.append(path)
    return sorted(stale)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes, *, durable: bool = False, private: bool = False) -> None:
    """Replace a file atomically: a reader finds the old content or the new content.

    The data goes to a temporary file in the same folder, which is then renamed. With `durable`
    the new content also survives a power cut (fsync of the file and of its folder). A `private`
    file has mode 0600; the umask decides on any other.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            if private:
                os.fchmod(file.fileno(), 0o600)
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(
    lock: Path, what: str, *, wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold a lock file for the length of the block.

    The kernel releases the lock when the process ends, however it ends. With `wait` the call
    blocks until the lock is free and calls `wait` ten times a second meanwhile.

    Raises:
        UserError: another process holds the lock and `wait` was not given. The message names
            `what` and the process.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        while wait and not _try_lock(file):
            wait()
            time.sleep(0.1)
        if not wait and not _try_lock(file):
            file.seek(0)
            raise UserError(
                f"{what} is already being made by process {file.read().strip() or '(starting)'} "
                "(perhaps left over from a `dvc` that was killed); wait for it, or end it and run "
                "this again"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `out` when the block ends without an exception.

    When the block raises, nothing is left behind and `out` stays as it was. Remains of an
    earlier process that was killed are deleted first.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(out, ignore_errors=True)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
