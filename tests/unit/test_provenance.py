"""Fingerprints, the state of git, and the description of the machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from components import provenance
from components.errors import UserError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository instead of Kiln's."""
    for name in ("components/training/loop.py", "components/console.py", "pipelines/train.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return tmp_path


def run_git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=n@localhost"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True)


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
    run_git(tree, "init", "-q")
    run_git(tree, "add", "-A")
    run_git(tree, "commit", "-qm", "start")
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


def test_unpacked_archive_needs_git_or_a_setting_of_dvc(tree: Path) -> None:
    (tree / ".dvc").mkdir()
    (tree / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    with pytest.raises(UserError, match=r"is no git repository .*git init .*core\.no_scm true"):
        provenance.check_version_control()
    (tree / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    assert "will not name the commit" in (provenance.check_version_control() or "")
    (tree / ".dvc" / "config.local").unlink()
    run_git(tree, "init", "-q")
    assert "will not name the commit" in (provenance.check_version_control() or "")
    run_git(tree, "add", "-A")
    run_git(tree, "commit", "-qm", "start")
    assert provenance.check_version_control() is None


def test_checkout_below_a_larger_repository_is_accepted(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_git(tree, "init", "-q")
    run_git(tree, "add", "-A")
    run_git(tree, "commit", "-qm", "start")
    monkeypatch.setattr(provenance, "ROOT", tree / "components")
    assert provenance.check_version_control() is None


def test_missing_git_is_a_warning(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_git(tree, "init", "-q")
    monkeypatch.setenv("PATH", str(tree))
    assert "git is not installed" in (provenance.check_version_control() or "")


def test_missing_dvc_is_an_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"DVC is not installed .*make setup"):
        provenance.check_version_control()


def test_environment_has_versions_and_the_machine() -> None:
    facts = provenance.environment()
    assert facts["version.torch"]
    assert facts["machine.cpu"]
