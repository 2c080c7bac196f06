"""Drivers and `dvc` are killed or interrupted; `dvc repro` continues, to the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.conftest import Clone

pytestmark = pytest.mark.slow

TRAIN = ("--train", "data/augmented/train", "--val", "data/prepared/val")
EPOCHS = 48
AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}


@pytest.fixture(scope="module")
def undisturbed(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The outs of a training that is long enough to interrupt; its parameters are in place."""
    out = tmp_path_factory.mktemp("long") / "undisturbed"
    clone.change("train.models.cnn.epochs", EPOCHS)
    clone.change("train.checkpoint", {"every_seconds": 1, "every_steps": None, "keep": 2})
    done = clone.stage("train", "--model", "cnn", *TRAIN, "--out", str(out))
    assert done.returncode == 0, done.stdout
    yield out
    clone.run("git", "checkout", "params.yaml")


class TrainStage:
    """`pipelines.train` in a process group of its own, as in a terminal."""

    def __init__(self, clone: Clone, out: Path) -> None:
        command = [sys.executable, "-u", "-m", "pipelines.train", "--model", "cnn"]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
        self.process = subprocess.Popen(
            [*command, *TRAIN, "--out", str(out)],
            cwd=clone.path,
            env=env,
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []

    def wait_for_line(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        pytest.fail(self.output)

    def wait(self) -> int:
        assert self.process.stdout is not None
        self.lines += self.process.stdout
        return self.process.wait()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def assert_same_outs(out: Path, other: Path) -> None:
    for name in ("weights.safetensors", "history.csv", "result.json"):
        assert (out / name).read_bytes() == (other / name).read_bytes(), name


def newest_run(clone: Clone) -> list[Any]:
    """Return the id and status of the newest MLflow run, and the steps of its metrics."""
    code = (
        "import json; from components.tracking import store; c = store.connect();"
        "e = c.get_experiment_by_name('fashion-mnist');"
        "r = c.search_runs([e.experiment_id], order_by=['attributes.start_time DESC'],"
        " max_results=1)[0].info;"
        "steps = [m.step for m in c.get_metric_history(r.run_id, 'val_top1')];"
        "print(json.dumps([r.run_id, r.status, steps]))"
    )
    return json.loads(clone.python(code).splitlines()[-1])  # type: ignore[no-any-return]


def test_a_stage_that_is_killed_and_later_interrupted_is_continued(
    clone: Clone, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.rmtree(clone.path / ".kiln" / "runs", ignore_errors=True)
    out = tmp_path / "out"
    stage = TrainStage(clone, out)
    stage.wait_for_line(f"epoch 1/{EPOCHS}")
    descendants = stage.descendants()
    names = {process.pid: " ".join(process.cmdline()).strip() for process in descendants}
    stage.wait_for_line(f"epoch 6/{EPOCHS}")
    stage.process.kill()
    assert stage.wait() == -signal.SIGKILL, stage.output
    assert not out.exists()
    _, alive = psutil.wait_procs(descendants, timeout=240)
    # After the death of a raylet its agents try to report it to the dead head, sixty times.
    assert {names[process.pid] for process in alive} <= AGENTS, "all others end with the driver"
    killed_run = newest_run(clone)
    assert killed_run[1] == "RUNNING"

    stage = TrainStage(clone, out)
    stage.wait_for_line("continuing in epoch")
    descendants = stage.descendants()
    stage.wait_for_line(f"/{EPOCHS}: loss")
    os.killpg(stage.process.pid, signal.SIGINT)  # Ctrl-C reaches the whole foreground group
    assert stage.wait() == 130, stage.output
    assert "continuing in epoch" in stage.output
    assert "stopped after step" in stage.output
    assert "Traceback" not in stage.output
    assert not out.exists()
    assert not psutil.wait_procs(descendants, timeout=240)[1]
    assert newest_run(clone)[:2] == [killed_run[0], "KILLED"]

    stage = TrainStage(clone, out)
    assert stage.wait() == 0, stage.output
    assert "continuing in epoch" in stage.output
    assert_same_outs(out, undisturbed)
    each_epoch_once = list(range(1, EPOCHS + 1))
    assert newest_run(clone) == [killed_run[0], "FINISHED", each_epoch_once]
    assert not list((clone.path / ".kiln" / "runs").iterdir()), "checkpoints are deleted at the end"
    assert not psutil.wait_procs(alive, timeout=240)[1], "the agents have given up"


def test_a_second_training_beside_an_orphan_is_refused(clone: Clone, undisturbed: Path) -> None:
    del undisturbed
    clone.change("train.models.cnn.epochs", 12)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
    env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    dvc = subprocess.Popen(
        ["dvc", "repro", "train@cnn"],
        cwd=clone.path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env | {"PYTHONUNBUFFERED": "1"},
    )
    assert dvc.stdout is not None
    assert any("epoch 1/12" in line for line in dvc.stdout)
    orphan = next(
        process
        for process in psutil.Process(dvc.pid).children(recursive=True)
        if "pipelines.train" in process.cmdline()
    )
    dvc.kill()
    dvc.wait()
    try:
        refused = clone.run("dvc", "repro", "train@cnn", check=False)
        assert refused.returncode != 0
        assert f"is already being made by process {orphan.pid}" in refused.stdout
        assert orphan.is_running()
        orphan.wait(timeout=1200)
        assert clone.repro("train@cnn") == ["train@cnn"]
    finally:
        if orphan.is_running():
            orphan.terminate()
        clone.run("git", "checkout", "params.yaml")
        clone.repro("train@cnn")
