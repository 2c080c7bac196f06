"""Tar and zip archives, unpacked as if they came from an enemy."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import fsspec

from components.data.sources.base import Refusal, printable
from components.errors import UserError
from components.params import Limits

_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
_CHUNK = 1 << 20


class _Member(NamedTuple):
    name: str
    regular: bool
    folder: bool
    open: Callable[[], IO[bytes]]


def is_archive(location: str) -> bool:
    return location.lower().endswith(_ENDINGS)


def unpack(location: str, folder: Path, limits: Limits) -> list[Refusal]:
    """Writes the regular members below `folder` and returns those refused: links, devices, paths that are absolute, lead
    upwards or stand twice. Nothing is written outside, no mode, owner or time is taken over.

    Raises:
        UserError: it cannot be read, or holds more members or bytes, or is packed more densely, than `limits` allow.
    """
    refused: list[Refusal] = []
    written = 0
    try:
        with fsspec.open(location, "rb") as file:
            packed = file.seek(0, 2)
            file.seek(0)
            most = min(int(limits.archive_gb * (1 << 30)), int(limits.archive_ratio * max(packed, 4096)))
            for count, member in enumerate(_members(file, location), 1):
                if count > limits.archive_files:
                    raise UserError(f"{location} has more members than preprocess.limits.archive_files ({count - 1:,}) allows")
                why = _objection(member, folder)
                if why:
                    refused.append(Refusal(member.name if printable(member.name) else ascii(member.name)[1:-1], *why))
                elif not member.folder:
                    written += _write(member, folder / member.name, most - written, location)
    except (OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{location} cannot be unpacked: {error}") from None
    return refused


def _members(file: IO[bytes], location: str) -> Iterator[_Member]:
    if location.lower().endswith(".zip"):
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                kind = info.external_attr >> 28  # the file type of Unix, 0 where the archiver had none
                yield _Member(info.filename, kind in (0, 0o10), info.is_dir(), lambda i=info: archive.open(i))  # type: ignore[misc]
    else:
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for item in archive:
                yield _Member(item.name, item.isreg(), item.isdir(), lambda i=item: archive.extractfile(i))  # type: ignore[misc, arg-type]


def _objection(member: _Member, folder: Path) -> tuple[str, str] | None:
    if member.folder:
        return None  # made when something is in it
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or not path.parts:
        return "outside", "the member's path is absolute or leads upwards"
    if not printable(member.name):
        return "name", "the name is not printable text"
    if not member.regular:
        return "not a file", "the member is a link or a device"
    target = folder / member.name
    if target.exists() or any(parent.is_file() for parent in target.parents if parent != folder):
        return "listed twice", "an earlier member has that path"
    return None


def _write(member: _Member, target: Path, room: int, location: str) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with member.open() as source, target.open("xb") as file:
        while data := source.read(_CHUNK):
            size += len(data)
            if size > room:
                raise UserError(
                    f"{location} unpacks to more than preprocess.limits.archive_gb or archive_ratio allow (at {member.name}); "
                    "raise the limit if the archive is to be trusted"
                )
            file.write(data)
    return size
