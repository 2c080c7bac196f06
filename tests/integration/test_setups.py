"""Kiln on other people's machines: the place of the checkout, its git repository, the home folder.

The stages that need no Ray run for real.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import Clone, make_clone

CHEAP_STAGES = ["params", "preprocess", "augment"]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return make_clone(tmp_path_factory.mktemp("origin") / "kiln")


def assert_works(clone: Clone, **env: str) -> None:
    preflight = clone.stage("preflight", **env)
    assert preflight.returncode == 0, preflight.stdout
    assert clone.repro("augment", **env) == CHEAP_STAGES
    assert clone.repro("augment", **env) == []


def test_shallow_clone_in_a_folder_with_spaces_with_strict_umask_and_no_home(
    origin: Clone, tmp_path: Path
) -> None:
    path = tmp_path / "Größe und 名前" / "kiln"
    clone_command = ["git", "clone", "-q", "--depth", "1", f"file://{origin.path}", str(path)]
    subprocess.run(clone_command, check=True)
    clone = Clone(path)
    # No folder can be made there, even by root.
    env = {"HOME": "/proc", "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
    preflight = clone.run("sh", "-c", "umask 077; python -m pipelines.preflight", **env)
    assert "error" not in preflight.stdout.lower()
    shown = clone.run("sh", "-c", "umask 077; dvc repro augment", **env).stdout
    assert [line for line in shown.splitlines() if line.startswith("Running stage")] == [
        f"Running stage '{stage}':" for stage in CHEAP_STAGES
    ]
    assert "matplotlib" not in shown.lower()
    assert (path / "data/augmented/train/manifest.json").stat().st_mode & 0o077 == 0


def test_worktree(origin: Clone, tmp_path: Path) -> None:
    origin.run("git", "worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    clone = Clone(tmp_path / "tree")
    assert_works(clone)
    code = "from components import provenance; print(provenance.git_state()['git.commit'])"
    assert clone.python(code) == origin.run("git", "rev-parse", "HEAD").stdout.strip()


def test_subdirectory_of_a_larger_repository(origin: Clone, tmp_path: Path) -> None:
    larger = tmp_path / "larger"
    shutil.copytree(origin.path, larger / "vision" / "kiln", ignore=shutil.ignore_patterns(".git"))
    clone = Clone(larger / "vision" / "kiln")
    for words in (("init", "-q", str(larger)), ("add", "-A"), ("commit", "-qm", "vendored")):
        clone.run("git", *words)
    assert_works(clone)
    assert "data/augmented" not in clone.run("git", "status", "--porcelain").stdout


def test_unpacked_archive_is_refused_until_dvc_is_told_that_there_is_no_git(
    origin: Clone, tmp_path: Path
) -> None:
    archive = tmp_path / "kiln.tar"
    origin.run("git", "archive", "-o", str(archive), "HEAD")
    shutil.unpack_archive(archive, tmp_path / "kiln", filter="data")
    clone = Clone(tmp_path / "kiln", {"GIT_CEILING_DIRECTORIES": str(tmp_path)})
    refused = clone.stage("preflight")
    assert refused.returncode == 2
    assert "dvc config" in refused.stdout
    clone.run("dvc", "config", "--local", "core.no_scm", "true")
    assert_works(clone)
