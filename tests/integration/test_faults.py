"""What happens on the second day: a worker dies, a real server stands where the file was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Clone, Server

TRAIN = ("--train", "data/augmented/train", "--val", "data/prepared/val")


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_training_outlives_its_tracking_server(clone: Clone, running: Server, tmp_path: Path, fault: signal.Signals) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))} | {
        "MLFLOW_TRACKING_URI": running.address
    }
    out = tmp_path / "cnn"
    command = [sys.executable, "-u", "-m", "pipelines.train", "--model", "cnn", *TRAIN, "--out", str(out)]
    stage = subprocess.Popen(command, cwd=clone.path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert stage.stdout is not None
    lines, ended = [], 0.0
    for line in stage.stdout:
        lines.append(line)
        if "epoch 1/2" in line:
            running.signal(fault)
        if "epoch 2/2" in line:
            ended = time.monotonic()
    assert stage.wait() == 0, "".join(lines)
    assert time.monotonic() - ended < 90
    assert "stopped answering" in "".join(lines)
    assert (out / "weights.safetensors").read_bytes() == (clone.path / "models/cnn/weights.safetensors").read_bytes()
    register = ("register", "--model", "cnn", "--trained", str(out), "--out", str(out / "receipt.json"))
    refused = clone.stage(*register, MLFLOW_TRACKING_URI=running.address)
    assert refused.returncode == 2
    assert f"the tracking server {running.address} does not answer" in refused.stdout
    assert not (out / "receipt.json").exists()
    if fault == signal.SIGKILL:
        running.start()
    else:
        running.signal(signal.SIGCONT)
    done = clone.stage(*register, MLFLOW_TRACKING_URI=running.address)
    assert done.returncode == 0, done.stdout
    assert "tracking: sent what run" in done.stdout
    assert not list((clone.path / ".kiln/spool").iterdir())
    told = clone.run("python", "-c", (
        "from components.tracking import store; c = store.connect(); e = c.get_experiment_by_name('fashion-mnist');"
        "print([(r.info.status, [m.step for m in c.get_metric_history(r.info.run_id, 'val_top1')])"
        " for r in c.search_runs([e.experiment_id])])"
    ), MLFLOW_TRACKING_URI=running.address).stdout  # fmt: skip
    assert told.splitlines()[-1] == "[('FINISHED', [1, 2])]", "one run, each epoch once"


def test_the_same_commands_on_a_real_tracking_server(clone: Clone, server: str, tmp_path: Path) -> None:
    out = tmp_path / "models" / "cnn"
    clone_models = clone.path / "models"
    before = sorted((clone.path / "mlruns").rglob("*"))  # of another test's own store
    for command in (
        ("train", "--model", "cnn", *TRAIN, "--out", str(out)),
        ("register", "--model", "cnn", "--trained", str(out), "--out", str(out / "receipt.json")),
        (
            "register",
            "--model",
            "resnet",
            "--trained",
            str(clone_models / "resnet"),
            "--out",
            str(out.parent / "resnet/receipt.json"),
        ),
        ("evaluate", "--models", str(out.parent), "--test", "data/prepared/test", "--out", str(tmp_path / "reports")),
        ("promote", "--version", "2", "--reason", "a server"),
    ):
        done = clone.stage(*command, MLFLOW_TRACKING_URI=server)
        assert done.returncode == 0, done.stdout
    assert (out / "weights.safetensors").read_bytes() == (clone_models / "cnn/weights.safetensors").read_bytes()
    for name in ("metrics.json", "per_class.csv"):
        assert (tmp_path / "reports" / name).read_bytes() == (clone.path / "reports" / name).read_bytes()
    assert sorted((clone.path / "mlruns").rglob("*")) == before
