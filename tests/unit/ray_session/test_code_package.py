"""The contents and the key of a code package."""

from __future__ import annotations

import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from components.errors import UserError
from components.ray_session import code_package
from components.ray_session.code_package import job_key, pack


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with tracked, ignored and executable files, which `pack` packs."""
    monkeypatch.setattr(code_package, "ROOT", tmp_path)
    for key in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(key, "n")
    (tmp_path / "components").mkdir()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "components/a.py").write_text("a = 1\n")
    (tmp_path / "tool.sh").write_text("#!/bin/sh\n")
    (tmp_path / "tool.sh").chmod(0o775)
    (tmp_path / ".gitignore").write_text("secret.env\n.dvc/config.local\n")
    (tmp_path / "secret.env").write_text("KEY=hidden")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True)


def unzip(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_package_holds_tracked_files_and_the_lock(repository: Path) -> None:
    package = pack(allow_dirty=False)
    assert set(unzip(package.archive)) == {
        ".gitignore",
        "components/a.py",
        "tool.sh",
        "dvc.lock",
        ".dvc/config.local",
    }
    with zipfile.ZipFile(io.BytesIO(package.archive)) as archive:
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}
    assert (modes["tool.sh"], modes["components/a.py"]) == (0o755, 0o644)
    assert pack(allow_dirty=False).archive == package.archive, "the bytes are reproducible"


def test_dirty_tree_is_refused_with_its_changes(repository: Path) -> None:
    (repository / "components/a.py").write_text("a = 2\n")
    (repository / "components/new.py").write_text("b = 1\n")
    (repository / "notes.txt").write_text("mine")
    (repository / "tool.sh").unlink()
    with pytest.raises(UserError) as caught:
        pack(allow_dirty=False)
    for line in (" M components/a.py", "?? components/new.py", "?? notes.txt", " D tool.sh"):
        assert line in str(caught.value)
    files = unzip(pack(allow_dirty=True).archive)
    assert files["components/a.py"] == b"a = 2\n"
    assert "components/new.py" in files, "untracked code travels"
    assert "notes.txt" not in files
    assert "tool.sh" not in files


def test_key_depends_on_files_and_stages_but_not_on_the_lock(repository: Path) -> None:
    first = pack(allow_dirty=False)
    (repository / "dvc.lock").write_text("schema: '2.0'\nstages:\n")
    locked = pack(allow_dirty=False)
    assert locked.changes == [], "the stages themselves write dvc.lock"
    assert locked.key == first.key
    git(repository, "commit", "-qam", "results")
    assert pack(allow_dirty=False).key == first.key
    assert job_key(first, ["b", "a"]) == job_key(first, ["a", "b"]) != job_key(first, ["a"])
    (repository / "tool.sh").chmod(0o664)
    assert pack(allow_dirty=True).key != first.key, "DVC records whether a file may be executed"


def test_location_of_a_remote_travels_without_credentials(repository: Path) -> None:
    (repository / ".dvc/config.local").write_text(
        "[core]\n    remote = store\n    hidden = 1\n"
        "['remote \"store\"']\n    url = s3://bucket/dvc\n    secret_access_key = hidden\n"
        "['remote \"web\"']\n    url = https://user:hidden@host/dvc\n"
    )
    config = unzip(pack(allow_dirty=False).archive)[".dvc/config.local"].decode()
    assert "hidden" not in config
    assert "no_scm = true" in config
    assert "remote = store" in config
    assert "['remote \"store\"']\nurl = s3://bucket/dvc" in config


def test_links_and_oversized_packages_are_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_package, "_MAX_BYTES", 10)
    with pytest.raises(
        UserError, match=r"track the large ones \(such as .gitignore\) with `dvc add`"
    ):
        pack(allow_dirty=False)
    (repository / "link").symlink_to("/etc/passwd")
    git(repository, "add", "link")
    git(repository, "commit", "-qm", "link")
    with pytest.raises(UserError, match="links and submodules cannot travel to a cluster: link"):
        pack(allow_dirty=False)


def test_folder_without_git_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_package, "ROOT", tmp_path)
    with pytest.raises(UserError, match="a job is made of a commit"):
        pack(allow_dirty=True)
