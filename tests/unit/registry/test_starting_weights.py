"""Starting weights: pins of files, URLs and registered models, and how they are recorded."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient

from components.errors import UserError
from components.models import weights
from components.models.architectures import build
from components.models.initial_files import open_init_file
from components.params import Params, load_params
from components.params.init import InitSource
from components.paths import ROOT
from components.records.splits import Channels
from components.records.training import Network
from components.registry import lineage, model_versions
from components.registry.starting_weights import is_outdated, open_registered, pin_all
from components.tracking import runs, store
from pipelines import params as stage

PARAMS = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
SHA256 = hashlib.sha256(b"weights").hexdigest()
NETWORK = Network(
    architecture="cnn",
    width=4,
    shape=(8, 8, 1),
    classes=["a", "b"],
    channels=Channels(mean=[80.0], std=[60.0]),
)


def write_params(init: str) -> Params:
    models = PARAMS["train"]["models"]
    values = PARAMS | {"train": PARAMS["train"] | {"models": {"cnn": models["cnn"]}}}
    values["train"]["models"]["cnn"] = models["cnn"] | {"init": init}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    return load_params()


def pin(init: str) -> str:
    return pin_all(write_params(init), Path("models"))["cnn"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    Path("start.pth").write_bytes(b"weights")
    return tmp_path


@pytest.fixture
def client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    return store.connect()


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """The address of an HTTP server with the files of the folder."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("start.pth#sha256=abc", "a pin is #sha256= and 64 digits"),
        ("#sha256=" + SHA256, "no file before the pin"),
        ("pretrained#sha256=" + SHA256, "pretrained takes no sha256"),
        ("models:/photos", "models:/NAME@ALIAS or models:/NAME/VERSION is needed"),
        ("models:/photos/3#version=3", "only an alias"),
        ("s3://bucket/start.pth", "a URL has to be https:// or http://"),
        ("https://me:secret@host/start.pth", "cannot contain a password"),
    ],
)
def test_malformed_values_are_refused(init: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"train\.models\.cnn\.init: .*{message}"):
        write_params(init)


def test_resolved_parameters_pin_the_content_of_a_file() -> None:
    params = write_params("start.pth")
    resolved = Path("data/params.yaml")
    stage.run(resolved)
    pinned = f"start.pth#sha256={SHA256}"
    assert load_params(resolved).train.models["cnn"].init == pinned
    assert not is_outdated(resolved, pin_all(params, Path("models")))
    Path("start.pth").write_bytes(b"others")
    assert is_outdated(resolved, pin_all(params, Path("models")))
    with pytest.raises(UserError, match=f"expected {SHA256}; .*`make repro` looks at it again"):
        open_init_file(InitSource.parse(pinned))


def test_file_that_the_pipeline_makes_is_refused() -> None:
    with pytest.raises(UserError, match=r"is an out of train@cnn.*models:/NAME/VERSION"):
        pin("models/cnn/weights.safetensors")


def test_url_is_fetched_once_and_compared_with_its_pin(address: str) -> None:
    url = f"{address}/start.pth"
    assert pin(url) == f"{url}#sha256={SHA256}"
    Path("start.pth").unlink()
    assert pin(f"{url}#sha256={SHA256}") == f"{url}#sha256={SHA256}"
    Path("start.pth").write_bytes(b"others")
    with pytest.raises(UserError, match=r"cannot be fetched .invalid hash value"):
        pin(f"{url}#sha256={'0' * 64}")


def test_url_without_a_network_is_an_error_with_advice() -> None:
    with pytest.raises(UserError, match=r"cannot be fetched .*without a network, put the file"):
        pin("http://127.0.0.1:9/start.pth")


def register(client: MlflowClient, run_tags: dict[str, Any] | None = None) -> None:
    """Register a model as version 1 of `task`, as `register` does."""
    torch.manual_seed(len(run_tags or {}))
    module = build(NETWORK).eval()
    sha256 = weights.sha256(NETWORK, module.state_dict())
    experiment = store.ensure_experiment(client, "task")
    run = client.create_run(experiment).info.run_id
    model_versions.create(client, "task", "cnn", module, NETWORK, sha256, run, run_tags or {})


def test_registered_model_is_a_start_that_lineage_names(client: MlflowClient) -> None:
    register(client)
    client.set_registered_model_alias("task", "champion", "1")
    sha256 = client.get_model_version("task", "1").tags["kiln.sha256"]
    pinned = f"models:/task@champion#version=1&sha256={sha256}"
    assert pin("models:/task@champion") == pinned
    assert pin("models:/task/1") == f"models:/task/1#sha256={sha256}"
    for init in ("models:/task@champion", pinned):
        with open_registered(init) as file:
            assert file is not None
            assert str(file.source) == pinned
            assert hashlib.sha256(file.path.read_bytes()).hexdigest() == sha256
            recorded = str(file.source.without_digest())
    tags = {runs.INIT_TAG: recorded, **runs.data_tags({"init": sha256})}
    register(client, tags)
    rows = dict(lineage.get_lineage(client, "task/2").table_rows())
    assert rows["starting weights"] == f"models:/task@champion, version 1, sha256 {sha256}"
    client.set_registered_model_alias("task", "champion", "2")
    resolved = Path("data/params.yaml")
    resolved.parent.mkdir()
    write_params(pinned).resolved()
    Path("params.yaml").rename(resolved)
    assert is_outdated(resolved, {"cnn": pin("models:/task@champion")})


def test_registered_model_with_other_weights_than_pinned_is_refused(client: MlflowClient) -> None:
    client.create_registered_model("task")
    tags = {"kiln.sha256": SHA256, "kiln.model": "cnn"}
    client.create_model_version("task", source="/models", tags=tags, await_creation_for=0)
    with pytest.raises(UserError, match=f"has the weights {SHA256}, expected {'0' * 64}"):
        pin(f"models:/task/1#sha256={'0' * 64}")
    with (
        pytest.raises(UserError, match="task version 1 is refused"),
        open_registered("models:/task/1"),
    ):
        pass
    with pytest.raises(UserError, match=r"train\.models\.cnn: task@best: no such alias"):
        pin("models:/task@best")
