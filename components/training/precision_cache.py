"""Precisions chosen by the probe, kept for the next training on the same machine.

The probe measures time, and time must not decide whether the same commit gives the same model.
So the first choice on a machine stands. Deleting the file makes the next training probe again.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from components.files import write_bytes


def key(*facts: object) -> str:
    """Return a digest of `facts` and of torch's version.

    Args:
        facts: JSON values on which the choice may depend: the network, its batches, the machine.
    """
    return hashlib.sha256(json.dumps([*facts, version("torch")]).encode()).hexdigest()


def load(path: Path, cache_key: str) -> str:
    """Return the precision that an earlier probe chose for `cache_key`, else `auto`."""
    return _read(path).get(cache_key, "auto")


def store(path: Path, cache_key: str, precision: str) -> None:
    """Add the precision for `cache_key` to the file at `path`, which is made if it is missing."""
    choices = _read(path) | {cache_key: precision}
    write_bytes(path, json.dumps(choices, indent=2, sort_keys=True).encode())


def _read(path: Path) -> dict[str, str]:
    """Return all precisions by key; none if the file is missing or no JSON."""
    try:
        choices: dict[str, str] = json.loads(path.read_bytes())
        return choices
    except (FileNotFoundError, ValueError):
        return {}
