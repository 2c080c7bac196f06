"""Files of starting weights: local ones and those of a URL, which are cached. Imports no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from components.errors import UserError
from components.files import sha256_file
from components.params.init import InitSource


@dataclass(frozen=True)
class InitFile:
    """A file of starting weights. `source` has the digest of its content."""

    source: InitSource
    path: Path


def open_init_file(source: InitSource) -> InitFile:
    """Return the file that a path or a URL names, after comparing it with its pin.

    Raises:
        UserError: There is no such file, it cannot be fetched, or its digest is not the pinned one.
    """
    path = Path(source.location) if source.kind == "file" else _fetch(source)
    if not path.is_file():
        raise UserError(
            f"init: there is no file {path}; give pretrained, a path, https://... or models:/..."
        )
    sha256 = sha256_file(path)
    if source.sha256 not in (None, sha256):
        raise UserError(
            f"init: {source.location} has sha256 {sha256}, expected {source.sha256}; restore the "
            "file. If it was meant to change, `make repro` looks at it again; a pin in "
            "params.yaml has to change too"
        )
    return InitFile(replace(source, sha256=sha256), path)


def _fetch(source: InitSource) -> Path:
    """Return the cached file of a URL, which is fetched the first time."""
    from torch import hub  # imports torch, which takes seconds

    url = source.location
    # Files of different URLs often have the same name.
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    path = Path(hub.get_dir(), "kiln", f"{key}-{Path(urlsplit(url).path).name}")
    if path.is_file() and source.sha256 in (None, sha256_file(path)):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        hub.download_url_to_file(url, str(path), hash_prefix=source.sha256, progress=False)
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        raise UserError(
            f"init: {url} cannot be fetched ({error}); without a network, put the file on this "
            "machine and give its path"
        ) from error
    return path
