"""The code archive that Kiln sends to a cluster: the committed files and `dvc.lock` only."""

from __future__ import annotations

import configparser
import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.dvc_cli import LOCK
from components.errors import UserError
from components.git_cli import GitError, git
from components.paths import ROOT
from components.provenance import PACKAGES

LOCAL_CONFIG = ".dvc/config.local"
"""DVC's settings of one working copy, which git ignores. Users keep credentials there."""

# The settings of a remote that Kiln sends to a cluster: its location, never credentials.
_PUBLIC_SETTINGS = ("url", "endpointurl", "region")
# Ray sends a package as one message of at most 512 MiB and keeps it in the head's memory.
_MAX_BYTES = 400 << 20


@dataclass(frozen=True)
class Package:
    """The repository's code as a zip archive."""

    archive: bytes
    """Content of the zip file."""
    commit: str
    """Full hash of the commit that the files come from."""
    changes: list[str]
    """Differences to the commit, as lines of `git status --porcelain`. Empty for a clean tree."""
    key: str
    """SHA-256 of all files except `dvc.lock`, which the results of a job change."""


@dataclass(frozen=True)
class _File:
    mode: int
    content: bytes


def pack(allow_dirty: bool) -> Package:
    """Pack the repository into an archive.

    The archive holds the tracked files with their content in the working tree. With `allow_dirty`
    it also holds untracked files of `PACKAGES`.

    Raises:
        UserError: there is no git repository; the tree is dirty and `allow_dirty` is false (the
            message lists the changes); or a file cannot be packed (a link, a submodule, too many
            bytes).
    """
    commit = _git("rev-parse", "HEAD").strip()
    changes = _list_changes()
    if changes and not allow_dirty:
        lines = "\n".join(f"  {line}" for line in changes)
        raise UserError(
            f"the working tree differs from commit {commit[:12]}, so the results could not be "
            f"reproduced:\n{lines}\n"
            "commit or ignore these changes, or add --allow-dirty (it sends tracked files as they "
            f"are here, and new files of {' and '.join(PACKAGES)})"
        )
    files = _read_files(_list_files(changes))
    digest = hashlib.sha256()
    for name, file in files.items():
        if name != LOCK:
            digest.update(f"{name}\0{file.mode:o}\0".encode())
            digest.update(hashlib.sha256(file.content).digest())
    files[LOCAL_CONFIG] = _File(0o600, render_public_config(ROOT))
    return Package(_zip(files), commit, changes, digest.hexdigest())


def job_key(package: Package, stages: Sequence[str]) -> str:
    """Return the idempotency key of a job. It depends on its files and stages only."""
    return hashlib.sha256("\0".join([package.key, *sorted(set(stages))]).encode()).hexdigest()


def _list_changes() -> list[str]:
    status = _git("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all")
    return [line for line in status.split("\0") if line and line[3:] != LOCK]


def _list_files(changes: list[str]) -> list[str]:
    tracked = (name for name in _git("ls-files", "-z").split("\0") if name)
    names = {name for name in tracked if os.path.lexists(ROOT / name)}
    untracked = (line[3:] for line in changes if line.startswith("??"))
    names |= {name for name in untracked if name.split("/")[0] in PACKAGES}
    if (ROOT / LOCK).exists():
        names.add(LOCK)
    return sorted(names)


def _read_files(names: list[str]) -> dict[str, _File]:
    unsupported = [
        name for name in names if (ROOT / name).is_symlink() or not (ROOT / name).is_file()
    ]
    if unsupported:
        raise UserError(
            f"links and submodules cannot travel to a cluster: {', '.join(unsupported)}; commit "
            "plain files instead"
        )
    size = sum((ROOT / name).stat().st_size for name in names)
    if size > _MAX_BYTES:
        largest = max(names, key=lambda name: (ROOT / name).stat().st_size)
        raise UserError(
            f"the committed files are {size >> 20} MiB, at most {_MAX_BYTES >> 20} travel as code; "
            f"track the large ones (such as {largest}) with `dvc add` instead of git"
        )
    return {name: _File(_portable_mode(ROOT / name), (ROOT / name).read_bytes()) for name in names}


def _portable_mode(path: Path) -> int:
    """Return 0o755 or 0o644.

    DVC records whether a dependency is executable. The other bits come from the umask of this
    machine and are left out.
    """
    return 0o755 if path.stat().st_mode & 0o100 else 0o644


def render_public_config(root: Path) -> bytes:
    """Return the content of `LOCAL_CONFIG` for a copy of the repository `root` without git.

    The local settings of remotes are kept, except their credentials.
    """
    config = configparser.ConfigParser(interpolation=None)
    config["core"] = {"no_scm": "true"}
    local = configparser.ConfigParser(interpolation=None)
    local.read(root / LOCAL_CONFIG, encoding="utf-8")
    if local.has_option("core", "remote"):
        config["core"]["remote"] = local["core"]["remote"]
    for section in local.sections():
        public = {key: value for key, value in local[section].items() if key in _PUBLIC_SETTINGS}
        has_user = any("@" in value.split("://")[-1] for value in public.values())
        if "remote" in section and public and not has_user:
            config[section] = public
    text = io.StringIO()
    config.write(text)
    return text.getvalue().encode()


def _zip(files: dict[str, _File]) -> bytes:
    """Return a zip archive. The same files give the same bytes, so that Ray keeps one copy."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, file in sorted(files.items()):
            entry = zipfile.ZipInfo(name)  # dated 1980-01-01, never the time of packing
            entry.external_attr = (0o100000 | file.mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.content)
    return buffer.getvalue()


def write_archive(package: Package, folder: Path) -> Path:
    """Write the archive into `folder` and return its path, which is named after its digest."""
    path = folder / f"kiln-{hashlib.sha256(package.archive).hexdigest()[:20]}.zip"
    path.write_bytes(package.archive)
    return path


def _git(*words: str) -> str:
    try:
        return git(ROOT, *words)
    except GitError as error:
        raise UserError(f"{error}; a job is made of a commit") from None
