"""First-party imports, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("components", "pipelines")


def list_modules(names: Iterable[str]) -> set[Path]:
    """Return the modules in folders and files of the repository, relative to its root."""
    files: set[Path] = set()
    for name in names:
        path = ROOT / name
        files |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return {path.relative_to(ROOT) for path in files}


def is_in(path: Path, names: Collection[str]) -> bool:
    """Return whether a file is one of `names` or lies below one of them."""
    return any(str(candidate) in names for candidate in (path, *path.parents))


def find_reachable(start: Iterable[Path], stop: Collection[str] = ()) -> set[Path]:
    """Return the modules that importing the files in `start` can run.

    Imports inside functions count, and so do the packages that contain a module. The imports of
    modules in `stop` are not followed.
    """
    files: set[Path] = set()
    pending = list(start)
    first = set(pending)
    while pending:
        path = pending.pop()
        if path not in files:
            files.add(path)
            if path in first or not is_in(path, stop):
                pending += _imports(path)
    return {path for path in files if not _is_empty(path)}


@cache
def _imports(path: Path) -> list[Path]:
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    packages = {
        ".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 1)
    }
    return [file for name in names | packages for file in _file(name)]


def _file(module: str) -> list[Path]:
    if module.split(".")[0] not in PACKAGES:
        return []
    base = Path(*module.split("."))
    candidates = [base.with_suffix(".py"), base / "__init__.py"]
    return [path for path in candidates if (ROOT / path).is_file()]


def _is_empty(path: Path) -> bool:
    """Return whether a module holds no more than a docstring."""
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    return all(isinstance(node, ast.Expr) for node in body)
