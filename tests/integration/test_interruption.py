"""Drivers and `dvc` itself are killed or interrupted; the next `dvc repro` goes on, to the same bytes."""

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

TRAIN = ("--train", "data/augmented/train", "--val", "data/prepared/val")
EPOCHS = 24


@pytest.fixture(scope="module")
def long(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Parameters of a training that leaves time to break it, and what it gives when nobody does."""
    out = tmp_path_factory.mktemp("long") / "whole"
    clone.change("train.models.cnn.epochs", EPOCHS)
    clone.change("train.checkpoint", {"every_seconds": 1, "every_steps": None, "keep": 2})
    done = clone.stage("train", "--model", "cnn", *TRAIN, "--out", str(out))
    assert done.returncode == 0, done.stdout
    yield out
    clone.change("train.models.cnn.epochs", 2)
    clone.run("git", "checkout", "params.yaml")


class Stage:
    """`pipelines.train` as a process group of its own, as under a terminal, watched line by line."""

    def __init__(self, clone: Clone, out: Path) -> None:
        command = [sys.executable, "-u", "-m", "pipelines.train", "--model", "cnn", *TRAIN, "--out", str(out)]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
        self.process = subprocess.Popen(command, cwd=clone.path, env=env, text=True, start_new_session=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        self.lines: list[str] = []

    def until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        pytest.fail("".join(self.lines))

    def end(self) -> int:
        assert self.process.stdout is not None
        self.lines += self.process.stdout
        return self.process.wait()

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def same(one: Path, other: Path) -> None:
    for name in ("weights.safetensors", "history.csv", "result.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def newest_run(clone: Clone) -> list[Any]:
    """Of the run that began last: its id, its status and the steps that it has figures of."""
    code = (
        "import json; from components.tracking import store; c = store.connect();"
        "e = c.get_experiment_by_name('fashion-mnist');"
        "r = c.search_runs([e.experiment_id], order_by=['attributes.start_time DESC'], max_results=1)[0].info;"
        "print(json.dumps([r.run_id, r.status, [m.step for m in c.get_metric_history(r.run_id, 'val_top1')]]))"
    )
    return json.loads(clone.python(code).splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_a_killed_or_interrupted_stage_is_continued(clone: Clone, long: Path, tmp_path: Path, how: signal.Signals) -> None:
    shutil.rmtree(clone.path / ".kiln" / "runs", ignore_errors=True)
    stage = Stage(clone, tmp_path / "out")
    stage.until(f"epoch 6/{EPOCHS}")
    family = stage.family()
    if how == signal.SIGINT:
        os.killpg(stage.process.pid, how)  # Ctrl-C reaches everything in the foreground
    else:
        stage.process.send_signal(how)
    code = stage.end()
    assert code == (-how if how == signal.SIGKILL else 130), "".join(stage.lines)
    if how != signal.SIGKILL:
        assert "stopped after step" in "".join(stage.lines)
        assert "Traceback" not in "".join(stage.lines)
    assert not (tmp_path / "out").exists()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, "Ray's processes are gone a minute later"
    first = newest_run(clone)
    assert first[1] == ("RUNNING" if how == signal.SIGKILL else "KILLED")
    stage = Stage(clone, tmp_path / "out")
    assert stage.end() == 0, "".join(stage.lines)
    assert "continuing in epoch" in "".join(stage.lines)
    same(tmp_path / "out", long)
    assert newest_run(clone) == [first[0], "FINISHED", list(range(1, EPOCHS + 1))], "the same run, each epoch once"
    assert not list((clone.path / ".kiln" / "runs").iterdir()), "checkpoints go when training has succeeded"


def test_nobody_trains_beside_an_orphan(clone: Clone, long: Path) -> None:
    del long
    dvc = subprocess.Popen(
        ["dvc", "repro", "train@cnn"], cwd=clone.path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert dvc.stdout is not None
    assert any(f"epoch 1/{EPOCHS}" in line for line in dvc.stdout)
    orphan = next(p for p in psutil.Process(dvc.pid).children(recursive=True) if "pipelines.train" in p.cmdline())
    dvc.kill()
    dvc.wait()
    try:
        refused = clone.run("dvc", "repro", "train@cnn", check=False)
        assert refused.returncode != 0
        assert f"is already being made by process {orphan.pid}" in refused.stdout
        assert orphan.is_running()
        orphan.wait(timeout=300)
        assert clone.repro("train@cnn") == ["train@cnn"]
    finally:
        if orphan.is_running():
            orphan.terminate()
        clone.run("git", "checkout", "params.yaml")
        clone.repro("train@cnn")
