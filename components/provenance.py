"""Provenance of a result: first-party code, git, libraries and hardware."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from components.dvc_cli import dvc
from components.errors import UserError
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
COMMIT = "KILN_COMMIT"
"""Environment variable with the submitted commit, for a job's copy of the code, which has no git
repository. `components.jobs.runner` sets it."""
DIRTY = "KILN_DIRTY"
"""Environment variable: `true` if the submitted tree differed from `COMMIT`, else `false`."""


def fingerprint(code: Iterable[str], facts: dict[str, Any]) -> str:
    """Return the SHA-256 of everything that determines a result, as hexadecimal digits.

    Args:
        code: folders and files of this repository, as `dvc.yaml` lists them.
        facts: parameters and digests of data, as JSON values.
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
    """Return `git.commit` and `git.dirty` of the working tree.

    The tree is dirty if tracked files have uncommitted changes or `PACKAGES` contain untracked
    files. `dvc.lock` does not count: the stages themselves write it. In a job's copy without git
    both are those of the submitted tree.
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
    changes = [
        line
        for line in lines.splitlines()
        if not line.startswith("?? ") or line.startswith(untracked_code)
    ]
    return {"git.commit": commit, "git.dirty": str(bool(changes)).lower()}


def check_version_control() -> str | None:
    """Check that DVC can run in this checkout.

    Returns:
        A warning if the results cannot name their commit, else None.

    Raises:
        UserError: DVC is not installed, or it refuses a folder that belongs to no git repository.
    """
    if importlib.util.find_spec("dvc") is None:
        raise UserError(f"DVC is not installed for {sys.executable}; run `make setup`")
    in_repository = any((folder / ".git").exists() for folder in (ROOT, *ROOT.parents))
    if not in_repository and dvc(ROOT, "config", "core.no_scm").strip() != "true":
        raise UserError(
            f"{ROOT} is no git repository (an unpacked archive has none), and DVC needs one: run "
            "`git init && git add -A && git commit -m start`, or `dvc config --local core.no_scm "
            "true` to work without versions of code and data"
        )
    try:
        git(ROOT, "rev-parse", "--verify", "HEAD")
    except GitError as error:
        reason = str(error).splitlines()[0]
        return f"MLflow will not name the commit of the results: {reason}"
    return None


def environment() -> dict[str, str]:
    """Return the versions of `LIBRARIES` and of Python, and a description of the machine."""
    versions = {f"version.{name}": metadata.version(name) for name in LIBRARIES}
    return versions | {
        "version.python": platform.python_version(),
        "machine.platform": platform.platform(),
        "machine.cpu": cpu_model(),
        "machine.cpus": str(os.cpu_count()),
    }


def cpu_model() -> str:
    """Return the name of the processor.

    It comes from `/proc/cpuinfo`, or from the platform where there is no such file.
    """
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
