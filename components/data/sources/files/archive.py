"""Unpacking of untrusted tar and zip archives."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import fsspec

from components.data.sources.base import Refusal, is_printable
from components.errors import UserError
from components.params import Limits
from components.printable import escape_unprintable

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
_READ_BYTES = 1 << 20
# A smaller archive counts as this size when the unpacked bytes per packed byte are limited.
_MIN_PACKED_BYTES = 4096


class _Member(NamedTuple):
    """One member of a tar or zip archive."""

    name: str
    is_regular: bool
    is_folder: bool
    open: Callable[[], IO[bytes] | None]


def is_archive(location: str) -> bool:
    """Return True if a path or URL ends like a tar or zip archive, and is not a folder."""
    return location.lower().endswith(_SUFFIXES) and not Path(location).is_dir()


def unpack(location: str, folder: Path, limits: Limits) -> list[Refusal]:
    """Write the regular members of an archive below `folder`, and return the refused members.

    Refused are links, devices, duplicates, and paths that are absolute or contain `..`. Nothing is
    written outside `folder`. Modes, owners and times are not restored.

    Raises:
        UserError: the archive cannot be read, or exceeds `limits` in members, bytes or ratio.
    """
    refused: list[Refusal] = []
    written = 0
    try:
        with fsspec.open(location, "rb") as file:
            packed = file.seek(0, 2)
            file.seek(0)
            max_bytes = min(
                int(limits.archive_gb * (1 << 30)),
                int(limits.archive_ratio * max(packed, _MIN_PACKED_BYTES)),
            )
            for count, member in enumerate(_iter_members(file, location), 1):
                if count > limits.archive_files:
                    raise UserError(
                        f"{location} has more members than preprocess.limits.archive_files "
                        f"({count - 1:,}) allows"
                    )
                refusal = _check_member(member, folder)
                if refusal:
                    refused.append(refusal)
                elif not member.is_folder:
                    target = folder / member.name
                    written += _write_member(member, target, max_bytes - written, location)
    except (
        OSError,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise UserError(f"{location} cannot be unpacked: {error}") from None
    return refused


def _iter_members(file: IO[bytes], location: str) -> Iterator[_Member]:
    if location.lower().endswith(".zip"):
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            # Some Windows programs write backslashes, against the ZIP specification (4.4.17.1).
            is_windows = not any("/" in info.filename for info in members)
            for info in members:
                name = info.filename.replace("\\", "/") if is_windows else info.filename
                # The file type of Unix; 0 if the archiver did not record it.
                file_type = info.external_attr >> 28
                yield _Member(
                    name=name,
                    is_regular=file_type in (0, 0o10),
                    is_folder=name.endswith("/"),
                    open=partial(archive.open, info),
                )
    else:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for item in tar:
                yield _Member(
                    name=item.name,
                    is_regular=item.isreg(),
                    is_folder=item.isdir(),
                    open=partial(tar.extractfile, item),
                )


def _check_member(member: _Member, folder: Path) -> Refusal | None:
    """Return the reason not to write a member below `folder`, or None."""
    if member.is_folder:
        return None  # Folders are created with the first file in them.
    name = member.name
    path = PurePosixPath(name)
    shown = escape_unprintable(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        return Refusal(shown, "outside", "the member's path is absolute or leads upwards")
    if not is_printable(name):
        return Refusal(shown, "name", "the name is not printable text")
    if not member.is_regular:
        return Refusal(shown, "not a file", "the member is a link or a device")
    target = folder / name
    if target.exists() or any(parent.is_file() for parent in target.parents if parent != folder):
        return Refusal(shown, "listed twice", "an earlier member has that path")
    return None


def _write_member(member: _Member, target: Path, max_bytes: int, location: str) -> int:
    """Write one member and return its size in bytes.

    Raises:
        UserError: it is larger than `max_bytes`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    source = member.open()
    assert source is not None, "a regular member has content"
    with source, target.open("xb") as file:
        while data := source.read(_READ_BYTES):
            size += len(data)
            if size > max_bytes:
                raise UserError(
                    f"{location} unpacks to more than preprocess.limits.archive_gb or "
                    f"archive_ratio allow (at {member.name}); "
                    "raise the limit if the archive is to be trusted"
                )
            file.write(data)
    return size
