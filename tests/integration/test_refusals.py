"""Mistakes of the user: one message before any work, exit code 2, and no partial outs."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest

from tests.integration.conftest import Clone

TRAIN = ("--model", "cnn", "--train", "data/augmented/train", "--val", "data/prepared/val")


@pytest.fixture
def broken(clone: Clone) -> Iterator[Clone]:
    """The clone; its parameters and raw data are restored afterwards."""
    raw = clone.path / "data/raw/small"
    originals = {path: path.read_bytes() for path in [clone.path / "params.yaml", *raw.iterdir()]}
    yield clone
    for path, data in originals.items():
        path.write_bytes(data)
    for path in raw.iterdir():
        if path not in originals:
            path.unlink()


def refusal(clone: Clone, verb: str, *arguments: str, out: Path, **env: str) -> str:
    """Run a command that must fail; check that `out` does not exist; return the message."""
    done = clone.stage(verb, *arguments, "--out", str(out), **env)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stdout
    assert done.stdout.count("error: ") == 1
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*"))
    return done.stdout


def test_every_stage_reports_all_wrong_parameters_in_one_message(
    broken: Clone, tmp_path: Path
) -> None:
    broken.change("train.models.cnn.lerning_rate", 0.1)
    broken.change("train.models.resnet.epochs", "four")
    broken.change("evaluate.gates.min_top_1", 0.9)
    message = refusal(broken, "preprocess", out=tmp_path / "out")
    assert message == refusal(broken, "train", *TRAIN, out=tmp_path / "out")
    assert "params.yaml: 3 errors" in message
    assert "train.models.cnn.lerning_rate: no such key; did you mean learning_rate?" in message
    assert "train.models.resnet.epochs: " in message
    assert "evaluate.gates.min_top_1: no such key; did you mean min_top1?" in message


def test_repro_stops_at_wrong_parameters_and_keeps_the_outs(broken: Clone) -> None:
    weights = (broken.path / "models/cnn/weights.safetensors").read_bytes()
    broken.change("train.models.cnn.architecture", "resnet19")
    done = broken.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert "did you mean the architecture resnet18 or" in done.stdout, "its width is refused first"
    assert "Traceback" not in done.stdout
    broken.change("train.models.cnn.architecture", "cnn")
    assert broken.repro() == [], "DVC restores everything from its cache"
    assert (broken.path / "models/cnn/weights.safetensors").read_bytes() == weights


def test_indivisible_batch_is_refused(broken: Clone, tmp_path: Path) -> None:
    broken.change("train.global_batch_size", 61)
    assert "the nearest that it does: 60 or 62" in refusal(
        broken, "train", *TRAIN, out=tmp_path / "out"
    )


@pytest.mark.parametrize("change", [{"num_workers": 30}, {"cpus_per_worker": 30}])
def test_workers_that_do_not_fit_the_machine_are_refused(
    broken: Clone, tmp_path: Path, change: dict[str, Any]
) -> None:
    for key, value in change.items():
        broken.change(f"train.{key}", value)
    start = time.monotonic()
    message = refusal(broken, "train", *TRAIN, out=tmp_path / "out")
    assert time.monotonic() - start < 5
    assert "can be placed" in message
    assert f"has {joblib.cpu_count()} CPU" in message


def test_missing_gpu_is_refused_before_ray_starts(broken: Clone, tmp_path: Path) -> None:
    broken.change("train.device", "gpu")
    message = refusal(broken, "train", *TRAIN, out=tmp_path / "out", CUDA_VISIBLE_DEVICES="")
    assert "train.device is gpu, but torch finds no GPU on this machine" in message


@pytest.mark.parametrize("verb", ["train", "preflight"])
def test_mistaken_addresses_are_refused_in_time(clone: Clone, tmp_path: Path, verb: str) -> None:
    arguments = (*TRAIN, "--out", str(tmp_path / "out")) if verb == "train" else ()
    for env in ({"RAY_ADDRESS": "127.0.0.1:1"}, {"MLFLOW_TRACKING_URI": "localhost:5000"}):
        start = time.monotonic()
        done = clone.stage(verb, *arguments, **env)
        assert time.monotonic() - start < 30
        assert done.returncode == 2, done.stdout
        assert done.stdout.count("error: ") == 1
        assert "Traceback" not in done.stdout


def test_unknown_model_is_refused(clone: Clone, tmp_path: Path) -> None:
    message = refusal(clone, "train", "--model", "vgg", *TRAIN[2:], out=tmp_path / "out")
    assert "not in train.models of params.yaml, which has cnn, resnet" in message


def test_altered_and_missing_raw_files_are_named(broken: Clone, tmp_path: Path) -> None:
    raw = broken.path / "data/raw/small"
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in raw.iterdir()}
    (raw / "SHA256SUMS").write_text(
        "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    )
    (raw / "train-images-idx3-ubyte").write_bytes(b"altered")
    (raw / "t10k-labels-idx1-ubyte").unlink()
    message = refusal(broken, "preprocess", out=tmp_path / "out")
    altered = hashlib.sha256(b"altered").hexdigest()
    expected = digests["train-images-idx3-ubyte"]
    assert (
        f"train-images-idx3-ubyte: altered, expected sha256 {expected}, found {altered}" in message
    )
    expected = digests["t10k-labels-idx1-ubyte"]
    assert f"t10k-labels-idx1-ubyte: missing, expected sha256 {expected}" in message


def test_damaged_shard_is_refused(clone: Clone, tmp_path: Path) -> None:
    path = clone.path / "data/augmented/train/00000.parquet"
    original = path.read_bytes()
    path.unlink()
    path.write_bytes(original[:-1] + b"x")
    try:
        message = refusal(clone, "train", *TRAIN, out=tmp_path / "out")
        assert (
            f"00000.parquet: expected sha256 {hashlib.sha256(original).hexdigest()}, found"
            in message
        )
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("frozen", [False, True], ids=["connection refused", "no answer"])
def test_unresponsive_tracking_server_is_named_in_time(
    clone: Clone, tmp_path: Path, frozen: bool
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if frozen:
            server.listen()
        address = f"http://user:secret@127.0.0.1:{server.getsockname()[1]}"
        start = time.monotonic()
        message = refusal(clone, "train", *TRAIN, out=tmp_path / "out", MLFLOW_TRACKING_URI=address)
        assert time.monotonic() - start < 30
    assert f"the tracking server {address.replace('secret', '***')} does not answer" in message
    assert "secret" not in message


def test_weights_that_do_not_match_the_result_are_not_registered(
    clone: Clone, tmp_path: Path
) -> None:
    for name in ("weights.safetensors", "result.json", "history.csv"):
        source = "resnet" if name == "weights.safetensors" else "cnn"
        (tmp_path / name).write_bytes((clone.path / "models" / source / name).read_bytes())
    before = clone.versions()
    message = refusal(
        clone,
        "register",
        "--model",
        "cnn",
        "--trained",
        str(tmp_path),
        out=tmp_path / "receipt.json",
    )
    assert "weights.safetensors: expected sha256" in message
    assert clone.versions() == before
