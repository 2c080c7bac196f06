"""What the probe of `precision` chose, kept for the next training on this machine."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from components.files import write_bytes


def situation(*facts: object) -> str:
    """Digest of what the probe's choice may depend on: the network, its batches, the machine, torch."""
    return hashlib.sha256(json.dumps([*facts, version("torch")]).encode()).hexdigest()


def recall(memory: Path, situation: str) -> str:
    """What an earlier probe chose in this situation (network, batch, machine, libraries), else `auto`.

    A stopwatch must not decide whether the same commit gives the same model: on one machine the first answer stands.
    Deleting the file asks again.
    """
    return _choices(memory).get(situation, "auto")


def remember(memory: Path, situation: str, precision: str) -> None:
    write_bytes(memory, json.dumps({**_choices(memory), situation: precision}, indent=2, sort_keys=True).encode())


def _choices(memory: Path) -> dict[str, str]:
    try:
        choices: dict[str, str] = json.loads(memory.read_bytes())
        return choices
    except (FileNotFoundError, ValueError):
        return {}
