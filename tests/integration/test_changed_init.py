"""DVC and preflight: the weights behind an `init` change while params.yaml stays as it is."""

from __future__ import annotations

from pathlib import Path

import yaml

from components.files import sha256_file
from tests.integration.conftest import make_clone


def test_preflight_makes_dvc_look_at_changed_starting_weights(tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "clone")
    start = clone.path / "start.pth"
    resolved = clone.path / "data" / "params.yaml"
    clone.change("train.models.cnn.init", "start.pth")
    stages = []
    for content in (b"one", b"one", b"two", b"one"):
        start.write_bytes(content)
        checked = clone.stage("preflight")
        assert checked.returncode == 0, checked.stdout
        stages.append(("is made again" in checked.stdout, clone.repro("params")))
        recipe = yaml.safe_load(resolved.read_text())["train"]["models"]["cnn"]
        assert recipe["init"] == f"start.pth#sha256={sha256_file(start)}"
    assert stages == [(False, ["params"]), (False, []), (True, []), (True, [])]
    start.unlink()
    checked = clone.stage("preflight")
    assert checked.returncode == 2
    assert "train.models.cnn: init: there is no file start.pth" in checked.stdout
