"""The scratch folder of a node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.errors import UserError
from components.ray_session import nodes
from components.ray_session.nodes import node_scratch


def test_scratch_folder_is_created_for_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_SCRATCH", str(tmp_path / "disk" / "scratch"))
    assert node_scratch() == tmp_path / "disk" / "scratch"
    assert node_scratch().stat().st_mode & 0o777 == 0o700


def test_default_scratch_folder_is_named_after_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KILN_SCRATCH", raising=False)
    monkeypatch.setattr(nodes.tempfile, "tempdir", str(tmp_path))
    assert node_scratch() == tmp_path / f"kiln-{os.getuid()}"


def test_scratch_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_SCRATCH", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(UserError, match="belongs to another user; set KILN_SCRATCH"):
        node_scratch()
