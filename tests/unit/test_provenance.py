"""Fingerprints, the state of git, and the description of the machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from components import provenance


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository instead of Kiln's."""
    for name in ("components/training/loop.py", "components/console.py", "pipelines/train.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return tmp_path


def test_fingerprint_covers_the_listed_code_and_the_facts(tree: Path) -> None:
    code = ["components/training", "pipelines/train.py"]
    before = provenance.fingerprint(code, {"a": 1, "b": 2})
    assert provenance.fingerprint(code, {"b": 2, "a": 1}) == before
    assert provenance.fingerprint(code, {"a": 1, "b": 3}) != before
    (tree / "components" / "console.py").write_text("x = 1")
    assert provenance.fingerprint(code, {"a": 1, "b": 2}) == before
    (tree / "components" / "training" / "loop.py").write_text("x = 1")
    assert provenance.fingerprint(code, {"a": 1, "b": 2}) != before


def test_git_state_ignores_dvc_lock_and_untracked_notes(tree: Path) -> None:
    assert provenance.git_state() == {"git.commit": "unknown", "git.dirty": "unknown"}
    (tree / "dvc.lock").write_text("1")
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=n", "-c", "user.email=n@localhost", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *words], cwd=tree, check=True)
    assert len(provenance.git_state()["git.commit"]) == 40
    (tree / "dvc.lock").write_text("2")
    assert provenance.git_state()["git.dirty"] == "false"
    (tree / "notes.txt").write_text("untracked")
    assert provenance.git_state()["git.dirty"] == "false"
    (tree / "components" / "new.py").write_text("x = 1")
    assert provenance.git_state()["git.dirty"] == "true"
    (tree / "components" / "new.py").unlink()
    (tree / "components" / "console.py").write_text("x = 1")
    assert provenance.git_state()["git.dirty"] == "true", "a tracked file has changed"


def test_environment_has_versions_and_the_machine() -> None:
    facts = provenance.environment()
    assert facts["version.torch"]
    assert facts["machine.cpu"]
