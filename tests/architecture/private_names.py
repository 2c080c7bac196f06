"""Private names of ray, torch and mlflow in first-party code, found in the syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.architecture.first_party import ROOT

LIBRARIES = ("ray", "torch", "torchvision", "mlflow")
FOLDERS = ("components", "pipelines", "benchmarks", "docs", "tests")
# Methods of a namedtuple, which are public in spite of their names.
_NAMEDTUPLE = {"_replace", "_asdict", "_fields", "_make"}


def source_files() -> list[Path]:
    """Return all Python files of the repository, relative to its root."""
    return sorted(p.relative_to(ROOT) for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file of the repository."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def find_private_names(tree: ast.Module, first_party_names: set[str]) -> Iterator[str]:
    """Yield `LINE: CODE` for each use of a private name of `LIBRARIES`.

    A private name begins with an underscore. It is the part of an import, an attribute of an
    imported name or of `super()`, or an attribute of another object that is not in
    `first_party_names`. An assignment to an attribute of an imported name is yielded too, because
    it patches the library.
    """
    modules = _imported_modules(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            private = any(_is_private_import(name) for name in _imported_names(node))
        elif isinstance(node, ast.Attribute):
            private = _is_private_attribute(node, modules, first_party_names)
        elif isinstance(node, ast.Call):
            private = _is_patching_call(node, modules)
        else:
            private = False
        if private:
            yield f"{node.lineno}: {ast.unparse(node)}"


def names_defined_in(tree: ast.Module) -> Iterator[str]:
    """Yield the names of functions, classes, variables and attributes that a file defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def _imported_modules(tree: ast.Module) -> dict[str, str]:
    """Return the top-level package behind each name that the imports of a file bind."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.split(".")[0]
                modules[alias.asname or package] = package
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                modules[alias.asname or alias.name] = node.module.split(".")[0]
    return modules


def _imported_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names]


def _is_private_import(name: str) -> bool:
    parts = name.split(".")
    return parts[0] in LIBRARIES and any(_is_private(part) for part in parts)


def _is_private_attribute(
    node: ast.Attribute, modules: dict[str, str], first_party_names: set[str]
) -> bool:
    package = _package(node, modules)
    if package in LIBRARIES and isinstance(node.ctx, ast.Store | ast.Del):
        return True
    if not _is_private(node.attr) or node.attr in _NAMEDTUPLE:
        return False
    if package is not None:
        return package in LIBRARIES
    is_super = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "super"
    return is_super or node.attr not in first_party_names


def _is_patching_call(node: ast.Call, modules: dict[str, str]) -> bool:
    """Return whether a call is `setattr(library, ...)` or `delattr(library, ...)`.

    `monkeypatch.setattr` does not count, because it is undone at the end of a test.
    """
    is_builtin = isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr")
    return is_builtin and _package(node.args[0], modules) in LIBRARIES


def _package(node: ast.AST, modules: dict[str, str]) -> str | None:
    """Return the package of the imported name at the root of `a.b.c`, None for anything else."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return modules.get(node.id) if isinstance(node, ast.Name) else None


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))
