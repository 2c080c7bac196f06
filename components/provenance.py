"""Where something came from: first-party code, git, libraries, hardware."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("components", "pipelines")
# What a copy without git is told of where it comes from (`components.cluster.runner` sets them).
COMMIT, DIRTY = "KILN_COMMIT", "KILN_DIRTY"
LIBRARIES = ("ray", "torch", "torchvision", "mlflow", "dvc", "numpy", "pandas", "pyarrow", "scikit-learn")


@cache
def first_party(module: str) -> frozenset[Path]:
    """The files that importing `module` can run, itself included: its first-party imports, their imports, and the
    packages around them, wherever in a file the import stands. Relative to the repository's root."""
    found: set[Path] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        path = _file(name)
        if path is None or path in found:
            continue
        found.add(path)
        pending.extend(".".join(name.split(".")[:n]) for n in range(1, name.count(".") + 1))
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                pending.extend(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                pending.append(node.module)
                pending.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def _file(module: str) -> Path | None:
    if module.split(".")[0] not in PACKAGES:
        return None
    base = Path(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if (ROOT / path).is_file():
            return path
    return None


def fingerprint(module: str, facts: dict[str, Any]) -> str:
    """Digest of what makes a stage's result: its code (`first_party`) and `facts` (parameters, digests of data)."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path in sorted(first_party(module)):
        digest.update(str(path).encode() + b"\0" + hashlib.sha256((ROOT / path).read_bytes()).digest())
    return digest.hexdigest()


def git_state() -> dict[str, str]:
    """Commit, and whether the tree differs from it: committed files (`dvc.lock` aside: the stages themselves write it), or
    code that was never committed. In a job's copy: what it was packed from."""
    if COMMIT in os.environ and not (ROOT / ".git").exists():
        return {"git.commit": os.environ[COMMIT], "git.dirty": os.environ.get(DIRTY, "unknown")}
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=all", "--", ".", ":!dvc.lock")
    strangers = tuple(f"?? {package}/" for package in PACKAGES)
    changed = [line for line in (status or "").splitlines() if not line.startswith("?? ") or line.startswith(strangers)]
    return {"git.commit": commit or "unknown", "git.dirty": "unknown" if status is None else str(bool(changed)).lower()}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def environment() -> dict[str, str]:
    """Versions of the libraries that matter, and the machine."""
    facts = {f"version.{name}": metadata.version(name) for name in LIBRARIES}
    return facts | {
        "version.python": platform.python_version(),
        "machine.platform": platform.platform(),
        "machine.cpu": cpu_model(),
        "machine.cpus": str(os.cpu_count()),
    }


def cpu_model() -> str:
    """The processor's own name where Linux tells it, else what the platform says."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def checkout(commit: str, folder: Path) -> bool:
    """Clones this repository's `commit` into `folder`, with the same DVC cache and remotes. False if it does not have it."""
    if _git("cat-file", "-e", f"{commit}^{{commit}}") is None:
        return False
    if _git("clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder)) is None:
        return False
    if _git("-C", str(folder), "checkout", "--quiet", "--detach", commit) is None:
        return False
    local = ROOT / ".dvc" / "config.local"
    if local.exists():
        (folder / ".dvc" / "config.local").write_bytes(local.read_bytes())
    _dvc(folder, "cache", "dir", "--local", str(ROOT / ".dvc" / "cache"))
    return True


def locks(commit: str) -> list[str]:
    """The contents of `dvc.lock` at a commit, at the later ones that changed it, and here; the nearest first.

    What a training made is locked after it, so that the commit it ran at does not have it yet.
    """
    later = (_git("log", "--reverse", "--format=%H", f"{commit}..HEAD", "--", "dvc.lock") or "").split()
    texts = [_git("show", f"{revision}:dvc.lock") for revision in [commit, *later]]
    here = ROOT / "dvc.lock"
    return [*filter(None, texts), *([here.read_text(encoding="utf-8")] if here.exists() else [])]


def dvc_fetch(folder: Path, lock: str) -> None:
    """Gives a checkout another `dvc.lock`, and of its outs what the DVC cache or else the remote has; the rest stays away."""
    (folder / "dvc.lock").write_text(lock, encoding="utf-8")
    _dvc(folder, "checkout", "--allow-missing", "--force", "--quiet")
    _dvc(folder, "pull", "--allow-missing", "--force", "--quiet")


def _dvc(folder: Path, *words: str) -> None:
    # What cannot be fetched is seen by its absence.
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=folder, capture_output=True, timeout=1800, check=False)
