"""Where a result came from: first-party code, git, libraries, hardware."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from components.git_cli import GitError, git
from components.paths import ROOT

PACKAGES = ("components", "pipelines")
LIBRARIES = (
    "ray",
    "torch",
    "torchvision",
    "mlflow",
    "dvc",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
)
COMMIT, DIRTY = "KILN_COMMIT", "KILN_DIRTY"
"""Environment variables that replace git in a job's copy (`components.jobs.runner` sets them)."""


def fingerprint(code: Iterable[str], facts: dict[str, Any]) -> str:
    """Return the digest of everything that determines a result.

    Args:
        code: folders and files of this repository, as `dvc.yaml` lists them.
        facts: parameters and digests of data.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path in sorted(_modules(code)):
        content = hashlib.sha256((ROOT / path).read_bytes()).digest()
        digest.update(str(path).encode() + b"\0" + content)
    return digest.hexdigest()


def _modules(code: Iterable[str]) -> set[Path]:
    modules = set()
    for name in code:
        path = ROOT / name
        modules |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return {path.relative_to(ROOT) for path in modules}


def git_state() -> dict[str, str]:
    """Return the commit and whether the working tree differs from it.

    Uncommitted changes to tracked files count, except `dvc.lock`, which the stages themselves
    write. So do untracked files of `PACKAGES`. In a job's copy without git: the state of the
    tree that was submitted.
    """
    if COMMIT in os.environ and not (ROOT / ".git").exists():
        return {"git.commit": os.environ[COMMIT], "git.dirty": os.environ.get(DIRTY, "unknown")}
    try:
        commit = git(ROOT, "rev-parse", "HEAD").strip()
    except GitError:
        commit = "unknown"
    try:
        lines = git(ROOT, "status", "--porcelain", "--untracked-files=all", "--", ".", ":!dvc.lock")
    except GitError:
        return {"git.commit": commit, "git.dirty": "unknown"}
    untracked_code = tuple(f"?? {package}/" for package in PACKAGES)
    changes = [line for line in lines.splitlines() if not line.startswith("?? ") or line.startswith(untracked_code)]
    return {"git.commit": commit, "git.dirty": str(bool(changes)).lower()}


def environment() -> dict[str, str]:
    """Return the versions of the libraries in `LIBRARIES`, and a description of the machine."""
    versions = {f"version.{name}": metadata.version(name) for name in LIBRARIES}
    return versions | {
        "version.python": platform.python_version(),
        "machine.platform": platform.platform(),
        "machine.cpu": cpu_model(),
        "machine.cpus": str(os.cpu_count()),
    }


def cpu_model() -> str:
    """Return the processor's name from `/proc/cpuinfo`, elsewhere the platform's name for it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
