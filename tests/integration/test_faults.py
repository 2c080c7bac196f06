"""Training with a tracking server that is killed or frozen, and the pipeline on a server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Clone, Server

pytestmark = pytest.mark.slow

TRAIN = ("--train", "data/augmented/train", "--val", "data/prepared/val")
# Prints the status of each run, and the epochs that it has.
LIST_RUNS = """
from components.tracking import store
client = store.connect()
experiment_id = client.get_experiment_by_name("fashion-mnist").experiment_id
ids_and_status = [(r.info.run_id, r.info.status) for r in client.search_runs([experiment_id])]
print([
    (status, [m.step for m in client.get_metric_history(run_id, "val_top1")])
    for run_id, status in ids_and_status
])
"""


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_training_survives_its_tracking_server(
    clone: Clone, running: Server, tmp_path: Path, fault: signal.Signals
) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))} | {
        "MLFLOW_TRACKING_URI": running.address
    }
    out = tmp_path / "cnn"
    stage = subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-m",
            "pipelines.train",
            "--model",
            "cnn",
            *TRAIN,
            "--out",
            str(out),
        ],
        cwd=clone.path,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert stage.stdout is not None
    lines = []
    last_epoch = 0.0
    for line in stage.stdout:
        lines.append(line)
        if "epoch 1/2" in line:
            running.signal(fault)
        if "epoch 2/2" in line:
            last_epoch = time.monotonic()
    assert stage.wait() == 0, "".join(lines)
    assert time.monotonic() - last_epoch < 90
    assert "stopped answering" in "".join(lines)
    assert (out / "weights.safetensors").read_bytes() == (
        clone.path / "models/cnn/weights.safetensors"
    ).read_bytes()
    receipt = out / "receipt.json"
    register = ("register", "--model", "cnn", "--trained", str(out), "--out", str(receipt))
    refused = clone.stage(*register, MLFLOW_TRACKING_URI=running.address)
    assert refused.returncode == 2
    assert f"the tracking server {running.address} does not answer" in refused.stdout
    assert not receipt.exists()
    if fault == signal.SIGKILL:
        running.start()
    else:
        running.signal(signal.SIGCONT)
    done = clone.stage(*register, MLFLOW_TRACKING_URI=running.address)
    assert done.returncode == 0, done.stdout
    assert "tracking: sent what run" in done.stdout
    assert not list((clone.path / ".kiln/spool").iterdir())
    output = clone.run("python", "-c", LIST_RUNS, MLFLOW_TRACKING_URI=running.address).stdout
    assert output.splitlines()[-1] == "[('FINISHED', [1, 2])]", "one run, each epoch once"


def test_models_are_registered_evaluated_and_promoted_on_a_tracking_server(
    clone: Clone, server: str, tmp_path: Path
) -> None:
    models = clone.path / "models"
    before = sorted(
        (clone.path / "mlruns").rglob("*")
    )  # another test's embedded store may have left some
    receipts = tmp_path / "models"
    for model in ("cnn", "resnet"):
        shutil.copytree(models / model, receipts / model)
    for command in (
        *(("register", "--model", model, "--trained", str(models / model),
           "--out", str(receipts / model / "receipt.json")) for model in ("cnn", "resnet")),
        ("evaluate", "--models", str(receipts), "--test", "data/prepared/test",
         "--out", str(tmp_path / "reports")),
        ("promote", "--version", "2", "--reason", "a server"),
    ):  # fmt: skip
        done = clone.stage(*command, MLFLOW_TRACKING_URI=server)
        assert done.returncode == 0, done.stdout
    for name in ("metrics.json", "per_class.csv"):
        assert (tmp_path / "reports" / name).read_bytes() == (
            clone.path / "reports" / name
        ).read_bytes()
    assert sorted((clone.path / "mlruns").rglob("*")) == before
