"""Parts of a `dvc.lock`: merge two files stage by stage, remove stages, find uncached outs."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

_STAGE_START = re.compile(r"^  (?=\S)", re.M)


def find_uncached_outs(root: Path, lock: str) -> dict[str, list[str]]:
    """Return the outs in `lock` that `dvc.yaml` keeps out of the cache, by stage.

    These are receipts and the verdict. DVC can neither push nor fetch them.

    Args:
        root: folder of `dvc.yaml`.
        lock: content of `dvc.lock`, or an empty string.
    """
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    patterns = {
        name.split("@")[0]: [
            pattern
            for section in ("outs", "metrics", "plots")
            for out in stage.get(section, [])
            for pattern in _uncached_patterns(out)
        ]
        for name, stage in pipeline.items()
    }
    uncached = {}
    for name, stage in (yaml.safe_load(lock) or {}).get("stages", {}).items():
        outs = [out["path"] for out in stage.get("outs", [])]
        stage_patterns = patterns.get(name.split("@")[0], [])
        paths = [out for out in outs if any(re.fullmatch(p, out) for p in stage_patterns)]
        if paths:
            uncached[name] = paths
    return uncached


def _uncached_patterns(out: str | dict[str, dict[str, object]]) -> list[str]:
    """Return regular expressions of an entry's paths, if it has `cache: false`.

    An entry of `outs` is a path, or a mapping from the path to settings. In the expression,
    `${...}` in the path matches any part of a file name.
    """
    if isinstance(out, str):
        return []
    return [
        "[^/]+".join(re.escape(part) for part in re.split(r"\$\{[^}]*\}", path))
        for path, settings in out.items()
        if settings.get("cache") is False
    ]


def split_stages(lock: str) -> dict[str, str]:
    """Return the text of each stage in a `dvc.lock`, byte for byte."""
    _, _, body = lock.partition("stages:\n")
    blocks = ["  " + block for block in _STAGE_START.split(body) if block]
    return {block.strip().partition(":\n")[0].strip("'\""): block for block in blocks}


def merge_locks(lock: str, newer: str) -> str:
    """Replace stages of `lock` by those of `newer`, and append new stages.

    The result has the same bytes as after a local run.
    """
    if not lock:
        return newer
    head, mark, _ = newer.partition("stages:\n")
    return head + mark + "".join((split_stages(lock) | split_stages(newer)).values())


def remove_stages(lock: str, stages: set[str]) -> str:
    """Return `lock` without some stages, as if they had never run; empty if none is left."""
    head, mark, _ = lock.partition("stages:\n")
    blocks = [block for name, block in split_stages(lock).items() if name not in stages]
    return head + mark + "".join(blocks) if blocks else ""
