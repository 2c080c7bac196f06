from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from components import provenance


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository of its own in the place of Kiln's."""
    files = {
        "pipelines/__init__.py": "",
        "pipelines/stage.py": "from components.a import thing\ndef f():\n    import components.deep.b\n",
        "pipelines/other.py": "import components.c",
        "components/__init__.py": "",
        "components/a.py": "import json\nfrom components import c\nthing = 1",
        "components/c.py": "",
        "components/unused.py": "",
        "components/deep/__init__.py": "",
        "components/deep/b.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    provenance.first_party.cache_clear()
    yield tmp_path
    provenance.first_party.cache_clear()


def test_first_party_follows_imports_wherever_they_stand(tree: Path) -> None:
    assert {str(path) for path in provenance.first_party("pipelines.stage")} == {
        "pipelines/__init__.py", "pipelines/stage.py", "components/__init__.py", "components/a.py", "components/c.py",
        "components/deep/__init__.py", "components/deep/b.py",
    }  # fmt: skip


def test_the_fingerprint_changes_with_code_and_facts_that_matter_and_with_nothing_else(tree: Path) -> None:
    before = provenance.fingerprint("pipelines.stage", {"a": 1, "b": 2})
    assert provenance.fingerprint("pipelines.stage", {"b": 2, "a": 1}) == before
    assert provenance.fingerprint("pipelines.stage", {"a": 1, "b": 3}) != before
    (tree / "components" / "unused.py").write_text("x = 1")
    assert provenance.fingerprint("pipelines.stage", {"a": 1, "b": 2}) == before
    (tree / "components" / "deep" / "b.py").write_text("x = 1")
    assert provenance.fingerprint("pipelines.stage", {"a": 1, "b": 2}) != before


def test_git_state_overlooks_dvc_lock_and_nothing_else(tree: Path) -> None:
    assert provenance.git_state() == {"git.commit": "unknown", "git.dirty": "unknown"}
    (tree / "dvc.lock").write_text("1")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=n", "-c", "user.email=n@localhost", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tree, check=True)
    assert len(provenance.git_state()["git.commit"]) == 40
    (tree / "dvc.lock").write_text("2")
    assert provenance.git_state()["git.dirty"] == "false"
    (tree / "notes.txt").write_text("nobody's business")
    assert provenance.git_state()["git.dirty"] == "false"
    (tree / "components" / "new.py").write_text("x = 1")
    assert provenance.git_state()["git.dirty"] == "true"
    (tree / "components" / "new.py").unlink()
    (tree / "components" / "a.py").write_text("x = 1")
    assert provenance.git_state()["git.dirty"] == "true"


def test_the_environment_names_versions_and_machine() -> None:
    facts = provenance.environment()
    assert facts["version.torch"]
    assert facts["machine.cpu"]
