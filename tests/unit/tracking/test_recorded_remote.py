"""The address of a git remote is recorded with a run without the token that it may hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("login", ["ci:hidden", "hidden", "x-access-token:hid%2Fden"])
def test_tags_of_a_run_hold_no_token_of_a_remote(login: str, tmp_path: Path) -> None:
    """MLflow removes it. Kiln records MLflow's tags as they are."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (
        ["init", "-q"],
        ["remote", "add", "origin", f"https://{login}@git.example/o/r.git"],
        ["commit", "-q", "--allow-empty", "-m", "start"],
    ):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    (tmp_path / "main.py").write_text(
        "from mlflow.tracking.context.registry import resolve_tags\nprint(resolve_tags())\n"
    )
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "mlflow.source.git.commit" in done.stdout
    assert "hidden" not in done.stdout
    assert "hid%2Fden" not in done.stdout
