"""The code that travels to a cluster: the committed files and `dvc.lock`, in one archive with nothing else in it."""

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
# What of a remote's local settings may travel: where it is, not who may use it.
_PUBLIC_SETTINGS = ("url", "endpointurl", "region")
# Ray sends a package as one message of at most 512 MiB and keeps it in the head's memory.
_MOST_BYTES = 400 << 20


@dataclass(frozen=True)
class Package:
    """A zip archive, the commit it was made of and what differs from it. `key` is the digest of what determines a job's
    results: every file but `dvc.lock`, which the results themselves change."""

    data: bytes
    commit: str
    dirty: list[str]
    key: str


def pack(allow_dirty: bool) -> Package:
    """Packs the repository: committed files, with `allow_dirty` as they are here and with code that is not committed yet.

    Raises:
        UserError: this is no git repository, the tree is dirty (says what), or something cannot travel (links,
            submodules, too many bytes).
    """
    commit = _git("rev-parse", "HEAD").strip()
    changes = _git("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all").split("\0")
    dirty = [line for line in changes if line and line[3:] != LOCK]
    if dirty and not allow_dirty:
        raise UserError(
            f"the working tree differs from commit {commit[:12]}, so that nobody could make the results again:\n"
            + "\n".join(f"  {line}" for line in dirty)
            + "\ncommit or ignore that, or say --allow-dirty (what is tracked then travels as it is here, and new files of "
            + " and ".join(PACKAGES)
            + ")"
        )
    names = {name for name in _git("ls-files", "-z").split("\0") if name and os.path.lexists(ROOT / name)}
    names |= {line[3:] for line in dirty if line.startswith("??") and line[3:].split("/")[0] in PACKAGES}
    names |= {LOCK} & {path.name for path in ROOT.glob(LOCK)}
    files = _contents(sorted(names))
    digest = hashlib.sha256()
    for name, (mode, content) in files.items():
        if name != LOCK:
            digest.update(f"{name}\0{mode:o}\0".encode() + hashlib.sha256(content).digest())
    files[LOCAL_CONFIG] = (0o600, public_config(ROOT))
    return Package(_archive(files), commit, dirty, digest.hexdigest())


def job_key(package: Package, stages: Sequence[str]) -> str:
    """The idempotency key of a job: the same files and stages give the same results."""
    return hashlib.sha256("\0".join([package.key, *sorted(set(stages))]).encode()).hexdigest()


def _contents(names: list[str]) -> dict[str, tuple[int, bytes]]:
    odd = [name for name in names if (ROOT / name).is_symlink() or not (ROOT / name).is_file()]
    if odd:
        raise UserError(f"links and submodules cannot travel to a cluster: {', '.join(odd)}; commit plain files instead")
    size = sum((ROOT / name).stat().st_size for name in names)
    if size > _MOST_BYTES:
        largest = max(names, key=lambda name: (ROOT / name).stat().st_size)
        raise UserError(
            f"the committed files are {size >> 20} MiB, at most {_MOST_BYTES >> 20} travel as code; track the large ones "
            f"(such as {largest}) with `dvc add` instead of git"
        )
    # DVC records whether a dependency may be executed: the bit travels, the rest of the mode is this machine's umask.
    return {name: (0o755 if (ROOT / name).stat().st_mode & 0o100 else 0o644, (ROOT / name).read_bytes()) for name in names}


def public_config(root: Path) -> bytes:
    """DVC's local settings for a copy of `root`: it has no git, and its remotes are where they are there, without any
    credentials."""
    config = configparser.ConfigParser(interpolation=None)
    config["core"] = {"no_scm": "true"}
    here = configparser.ConfigParser(interpolation=None)
    here.read(root / LOCAL_CONFIG, encoding="utf-8")
    if here.has_option("core", "remote"):
        config["core"]["remote"] = here["core"]["remote"]
    for section in here.sections():
        public = {key: value for key, value in here[section].items() if key in _PUBLIC_SETTINGS}
        if "remote" in section and public and not any("@" in value.split("://")[-1] for value in public.values()):
            config[section] = public
    text = io.StringIO()
    config.write(text)
    return text.getvalue().encode()


def _archive(files: dict[str, tuple[int, bytes]]) -> bytes:
    """The same files give the same bytes, so that Ray keeps one copy of them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, (mode, content) in sorted(files.items()):
            entry = zipfile.ZipInfo(name)  # of 1980: no time of now in it
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def write_archive(package: Package, folder: Path) -> Path:
    path = folder / f"kiln-{hashlib.sha256(package.data).hexdigest()[:20]}.zip"
    path.write_bytes(package.data)
    return path


def _git(*words: str) -> str:
    try:
        return git(ROOT, *words)
    except GitError as error:
        raise UserError(f"{error}; a job is made of a commit") from None
