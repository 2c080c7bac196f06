"""What a job brings back besides the outs in the DVC remote: `dvc.lock` and the outs that DVC does not cache.

They are small and travel as lines of the job's log, so that whoever can follow the job can collect it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import yaml

from components.errors import UserError

MARK = "kiln-result:"
_LINE = 4000
_BLOCK = re.compile(r"^  (?=\S)", re.M)


def uncached(root: Path, lock: str) -> dict[str, list[str]]:
    """Locked stage -> its outs that `dvc.yaml` keeps out of the cache (receipts, the verdict)."""
    declared = {
        name.split("@")[0]: [
            "[^/]+".join(re.escape(part) for part in re.split(r"\$\{[^}]*\}", path))
            for key in ("outs", "metrics", "plots")
            for out in stage.get(key, [])
            if isinstance(out, dict)
            for path, settings in out.items()
            if settings.get("cache") is False
        ]
        for name, stage in yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items()
    }
    stages = (yaml.safe_load(lock) or {}).get("stages", {}) if lock else {}
    found = {
        name: [
            out["path"]
            for out in stage.get("outs", [])
            if any(re.fullmatch(pattern, out["path"]) for pattern in declared.get(name.split("@")[0], []))
        ]
        for name, stage in stages.items()
    }
    return {name: paths for name, paths in found.items() if paths}


def blocks(lock: str) -> dict[str, str]:
    """Stage -> its part of a `dvc.lock`, as it stands there."""
    _, _, body = lock.partition("stages:\n")
    parts = ["  " + part for part in _BLOCK.split(body) if part]
    return {part.strip().partition(":\n")[0].strip("'\""): part for part in parts}


def merged(lock: str, newer: str) -> str:
    """`lock` with the stages of `newer` in their place, new ones at the end: what a local run would have written."""
    if not lock:
        return newer
    head, mark, _ = newer.partition("stages:\n")
    return head + mark + "".join((blocks(lock) | blocks(newer)).values())


def without(lock: str, stages: set[str]) -> str:
    """`lock` as if these stages had never run."""
    head, mark, _ = lock.partition("stages:\n")
    left = [part for name, part in blocks(lock).items() if name not in stages]
    return head + mark + "".join(left) if left else ""


def lines(lock: str, files: dict[str, bytes]) -> Iterator[str]:
    """The log lines that carry a result; each holds its number, their count and the digest of the whole."""
    content = {name: base64.b64encode(data).decode() for name, data in files.items()}
    packed = zlib.compress(json.dumps({"lock": lock, "files": content}).encode(), 9)
    text, digest = base64.b64encode(packed).decode(), hashlib.sha256(packed).hexdigest()
    parts = [text[n : n + _LINE] for n in range(0, len(text), _LINE)]
    for number, part in enumerate(parts, 1):
        yield f"{MARK} {number}/{len(parts)} {digest} {part}"


def parse(log: str) -> tuple[str, dict[str, bytes]]:
    """`dvc.lock` and the uncached outs from a job's log.

    Raises:
        UserError: the log has no whole result.
    """
    found = [line.split(" ") for line in log.splitlines() if line.startswith(MARK + " ")]
    digest = found[-1][2] if found else ""
    found = [parts for parts in found if parts[2] == digest]
    packed = base64.b64decode("".join(parts[3] for parts in found))
    if not found or hashlib.sha256(packed).hexdigest() != digest:
        raise UserError("the job's log has no result in it, or not all of it; submit with --again to run it again")
    content = json.loads(zlib.decompress(packed))
    return content["lock"], {name: base64.b64decode(data) for name, data in content["files"].items()}


class Shown:
    """Writes a job's log as it comes, without the lines that carry its results."""

    def __init__(self) -> None:
        self.rest = ""

    def __call__(self, text: str) -> None:
        *whole, self.rest = (self.rest + text).split("\n")
        for line in whole:
            if not line.startswith(MARK):
                sys.stdout.write(line + "\n")
        sys.stdout.flush()
