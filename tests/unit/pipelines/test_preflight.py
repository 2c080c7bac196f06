"""Checks before a run: one message for all that is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.errors import UserError
from components.paths import ROOT
from components.ray_session import resources
from pipelines import preflight

PARAMS = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
PARAMS["train"]["num_workers"] = 1  # fits every machine


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with parameters and raw images, and no GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resources, "_count_local_gpus", lambda: 0)
    monkeypatch.setattr("components.provenance.check_version_control", lambda: None)
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS))
    path = Path(PARAMS["preprocess"]["source"]["path"]) / "images"
    path.parent.mkdir(parents=True)
    path.touch()
    return tmp_path


def test_all_failed_checks_are_in_one_message(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = PARAMS | {
        "preprocess": {"source": {"kind": "image_folder", "path": "photos"}},
        "train": PARAMS["train"] | {"device": "gpu"},
    }
    Path("params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    with pytest.raises(UserError) as caught:
        preflight.run(Path("models"))
    message = str(caught.value)
    assert "3 problems\n" in message
    assert "1. preprocess.source.path: photos " in message
    assert "2. train.device is gpu, but torch finds no GPU" in message
    assert "3. the tracking store localhost:5000 cannot be used" in message


def test_cluster_that_does_not_answer_is_the_only_problem(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")
    with pytest.raises(UserError, match=r"^Ray at RAY_ADDRESS=ray://127\.0\.0\.1:1 cannot be used"):
        preflight.run(Path("models"))
    monkeypatch.delenv("RAY_ADDRESS")
    preflight.run(Path("models"))


def test_python_without_the_packages_is_one_message() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pipelines"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "run `make setup` once" in done.stderr
    assert "Traceback" not in done.stderr
