"""A checkout that was moved, linked or copied goes on with its own registry."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT, Clone, make_clone
from tests.integration.versions import NAME

REGISTER = """
from components.tracking import store
from tests.integration.versions import evaluate_version, register_version
client = store.connect()
for seed, correct in {versions}:
    evaluate_version(client, register_version(client, seed), correct)
"""


def register(clone: Clone, *versions: tuple[int, int]) -> None:
    """Register and evaluate versions, each a seed and the number of correct predictions."""
    clone.run("python", "-c", REGISTER.format(versions=versions), PYTHONPATH=str(ROOT))


def promote(clone: Clone, version: int) -> None:
    done = clone.stage("promote", "--version", str(version), "--reason", "better")
    assert done.returncode == 0, done.stdout
    assert f"{NAME}@champion moved from" in done.stdout


def digest(folder: Path) -> dict[Path, str]:
    files = [folder / "mlflow.db", *(f for f in folder.glob("mlartifacts/**/*") if f.is_file())]
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
def test_moved_and_copied_checkouts_use_their_own_artifacts(tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "first" / "kiln")
    clone.change("register.name", NAME)
    register(clone, (1, 1800), (2, 1900))
    promote(clone, 1)
    original = digest(clone.path)

    copy = Clone(tmp_path / "a copy of kiln")
    shutil.copytree(clone.path, copy.path)
    promote(copy, 2)  # compares the predictions of both versions
    register(copy, (3, 1950))
    assert len(digest(copy.path)) > len(original)
    assert digest(clone.path) == original

    moved = clone.path.rename(tmp_path / "moved")
    link = Clone(tmp_path / "link")
    link.path.symlink_to(moved)
    promote(link, 2)
    assert not clone.path.exists()
