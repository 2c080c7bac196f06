"""Clones of Kiln with small data, each with its own git and DVC repository and MLflow store."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from components.records.receipt import Receipt
from components.tracking import store
from tests.conftest import make_images, write_idx
from tests.integration.faults import write_data
from tests.integration.versions import NAME

ROOT = Path(__file__).resolve().parents[2]
# Not the repository's own params.yaml, which belongs to the user.
PARAMS = ROOT / "tests" / "params.yaml"
CODE = (
    "components",
    "pipelines",
    "dvc.yaml",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitignore",
)
# An MLflow server starts eight more processes for jobs of its own, which no test needs.
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
TEST_ROWS = 1103  # divisible neither by 2 or 3 workers nor by their batches


@dataclass
class Clone:
    """A working copy and the environment that its commands run in."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    def run(
        self, *command: str, check: bool = True, timeout: float = 1800, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user would, but without a terminal. `stdout` includes the errors."""
        inherited = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("MLFLOW_", "RAY_", "KILN_", "GIT_"))
        }
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(
            command,
            cwd=self.path,
            env={
                **inherited,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "n@localhost",
                "GIT_COMMITTER_NAME": "n", "GIT_COMMITTER_EMAIL": "n@localhost",
                **self.env, **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
        )  # fmt: skip
        assert not check or done.returncode == 0, (
            f"{command} ended with {done.returncode}:\n{done.stdout}"
        )
        return done

    def repro(self, *arguments: str, check: bool = True, **env: str) -> list[str]:
        """Run `dvc repro` and return the stages that it ran."""
        shown = self.run("dvc", "repro", *arguments, check=check, **env).stdout
        return [
            line.split("'")[1] for line in shown.splitlines() if line.startswith("Running stage")
        ]

    def stage(self, verb: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `pipelines` and return the result, also when it fails."""
        return self.run("python", "-m", f"pipelines.{verb}", *arguments, check=False, **env)

    def params(self) -> dict[str, Any]:
        values: dict[str, Any] = yaml.safe_load((self.path / "params.yaml").read_text())
        return values

    def change(self, key: str, value: Any) -> None:
        """Set one dotted key of params.yaml."""
        values = self.params()
        section = values
        *parents, last = key.split(".")
        for parent in parents:
            section = section[parent]
        section[last] = value
        (self.path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def receipt(self, model: str) -> Receipt:
        return Receipt.read(self.path / "models" / model / "receipt.json")

    def python(self, code: str) -> str:
        """Run Python code in the clone and return what it prints."""
        return self.run("python", "-c", code).stdout.strip()

    def versions(self) -> dict[str, dict[str, str]]:
        """Return the tags of each version in the registry."""
        code = (
            "import json; from components.tracking import store; c = store.connect();"
            "print(json.dumps({v.version: v.tags for v in c.search_model_versions()}))"
        )
        return yaml.safe_load(self.python(code).splitlines()[-1])  # type: ignore[no-any-return]

    def bytes_of(self, *names: str) -> dict[str, bytes]:
        return {name: (self.path / name).read_bytes() for name in names}


def make_clone(path: Path) -> Clone:
    """Make a clone of the present code, with small data and matching parameters, all committed."""
    path.mkdir(parents=True)
    for name in CODE:
        source = ROOT / name
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, path / name)
    shutil.copy(PARAMS, path / "params.yaml")
    test = make_images(TEST_ROWS, seed=1, prefix="test")
    test.labels[::20] = (test.labels[::20] + 1) % 3  # no model gets everything right
    write_idx(path / "data" / "raw" / "small", make_images(660), test)
    clone = Clone(path)
    values = clone.params()
    values["preprocess"]["source"]["path"] = "data/raw/small"
    values["train"]["precision"] = "fp32"
    values["train"]["global_batch_size"] = 60
    for recipe in values["train"]["models"].values():
        recipe |= {"epochs": 2, "width": 8, "learning_rate": 0.1}
    values["evaluate"] |= {
        "batch_size": 100,
        "gates": {"min_top1": 0.5, "min_class_recall": 0.1, "max_ece": 0.9},
    }
    (path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    clone.run("git", "init", "-q", "-b", "main")
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "small")
    return clone


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the parameters of a small task, where an MLflow store can be created."""
    path = tmp_path_factory.mktemp("mlflow")
    values = yaml.safe_load(PARAMS.read_text())
    values["register"]["name"] = NAME
    values["evaluate"]["gates"] = dict.fromkeys(values["evaluate"]["gates"])
    (path / "params.yaml").write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def client(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of that store, for code that runs in this process."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    monkeypatch.chdir(home)
    return store.connect()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A real MLflow server that proxies the artifacts. It can be killed, frozen and restarted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"

    def options(self) -> list[str]:
        return ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}",
                "--artifacts-destination", str(self.folder / "artifacts")]  # fmt: skip

    def start(self, **env: str) -> None:
        log = (self.folder / "server.log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *self.options()],
            cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, **NO_JOBS, **env},
        )  # fmt: skip
        for _ in range(240):
            try:
                if requests.get(f"{self.address}/health", timeout=1).ok:
                    return
            except requests.RequestException:
                time.sleep(0.25)
        pytest.fail((self.folder / "server.log").read_text())

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    if server.process.poll() is None:
        server.signal(signal.SIGKILL)


@pytest.fixture
def server(running: Server) -> str:
    """The address of a real MLflow server."""
    return running.address


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The splits for the trainings of `faults`."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which the whole pipeline ran once.

    Tests restore its parameters, receipts and outs.
    """
    clone = make_clone(tmp_path_factory.mktemp("kiln") / "clone")
    stages = clone.repro()
    assert stages[0] == "params"
    assert sorted(stages) == [
        "augment",
        "evaluate",
        "params",
        "preprocess",
        "register@cnn",
        "register@resnet",
        "train@cnn",
        "train@resnet",
    ]
    clone.run("git", "add", "dvc.lock")
    clone.run("git", "commit", "-qm", "first run")
    return clone
