"""The commands that `status` prints mend what it reports, with real git, DVC and MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.conftest import Clone

pytestmark = pytest.mark.slow

MENDING = "to mend it: "


def run_printed_commands(clone: Clone, shown: str, **env: str) -> None:
    commands = next(line for line in shown.splitlines() if line.startswith(MENDING))
    clone.run("bash", "-ec", commands.removeprefix(MENDING), **env)


def require_consistent(clone: Clone, **env: str) -> None:
    """Check that each row has the metrics of the commit and the version of the receipt."""
    shown = clone.stage("status", **env).stdout
    assert MENDING not in shown
    rows = {words[0]: words for line in shown.splitlines() if (words := line.split())}
    metrics = json.loads((clone.path / "reports/metrics.json").read_text())
    for model in ("cnn", "resnet"):
        assert rows[model][1] == f"{metrics[model]['top1']:.2%}"
        assert rows[model][5] == str(clone.receipt(model).version)


def test_mismatches_after_a_change_of_commit_or_store_are_mended(
    clone: Clone, tmp_path: Path
) -> None:
    before = clone.receipt("cnn")
    clone.run("git", "checkout", "-q", "-b", "other")
    clone.change("train.models.cnn.learning_rate", 0.05)
    clone.repro()
    clone.run("git", "commit", "-qam", "other")
    clone.run("git", "checkout", "-q", "main")

    shown = clone.stage("status")
    assert shown.returncode == 0
    assert "cnn: models/cnn/weights.safetensors is not the file that dvc.lock names" in shown.stdout
    clone.run("dvc", "checkout", "-q")
    shown = clone.stage("status")
    assert "cnn: models/cnn/receipt.json is of fashion-mnist version" in shown.stdout
    assert "cnn: reports/verdict.json is of version" in shown.stdout
    assert "resnet: " not in shown.stdout, "its weights are the same in both commits"
    run_printed_commands(clone, shown.stdout)
    require_consistent(clone)
    assert clone.receipt("cnn") == before
    assert clone.run("git", "status", "--porcelain").stdout == ""

    other = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/other.db"}
    shown = clone.stage("status", **other)
    assert shown.stdout.count("has no such version") == 2
    run_printed_commands(clone, shown.stdout, **other)
    require_consistent(clone, **other)
    assert MENDING in clone.stage("status").stdout, "the receipts are of the other store now"
