"""A user's mistakes: one clear message before any work, a non-zero exit, nothing half-written."""

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
    """The clone, its parameters and raw data put back afterwards."""
    kept = {path: path.read_bytes() for path in [clone.path / "params.yaml", *(clone.path / "data/raw/small").iterdir()]}
    yield clone
    for path, data in kept.items():
        path.write_bytes(data)
    for path in (clone.path / "data/raw/small").iterdir():
        if path not in kept:
            path.unlink()


def refusal(clone: Clone, verb: str, *arguments: str, out: Path, **env: str) -> str:
    """What a command that must refuse says, in a single message, without leaving anything at `out`."""
    done = clone.stage(verb, *arguments, "--out", str(out), **env)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stdout
    assert done.stdout.count("error: ") == 1
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*"))
    return done.stdout


def test_misspelt_keys_and_wrong_types_are_told_all_at_once_by_every_stage(broken: Clone, tmp_path: Path) -> None:
    broken.change("train.models.cnn.lerning_rate", 0.1)
    broken.change("train.models.resnet.epochs", "four")
    broken.change("evaluate.gates.min_top_1", 0.9)
    told = refusal(broken, "preprocess", out=tmp_path / "out")
    assert told == refusal(broken, "train", *TRAIN, out=tmp_path / "out")
    assert "params.yaml: 3 errors" in told
    assert "train.models.cnn.lerning_rate: no such key; did you mean learning_rate?" in told
    assert "train.models.resnet.epochs: " in told
    assert "evaluate.gates.min_top_1: no such key; did you mean min_top1?" in told


def test_dvc_repro_stops_at_the_mistake_with_the_message_and_nothing_is_lost(broken: Clone) -> None:
    weights = (broken.path / "models/cnn/weights.safetensors").read_bytes()
    broken.change("train.models.cnn.architecture", "resnet19")
    done = broken.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert "train.models.cnn.architecture: found 'resnet19'; known: 'cnn', 'resnet20', 'resnet18'" in done.stdout
    assert "Traceback" not in done.stdout
    broken.change("train.models.cnn.architecture", "cnn")
    assert broken.repro() == [], "DVC takes everything from its cache again"
    assert (broken.path / "models/cnn/weights.safetensors").read_bytes() == weights


def test_a_batch_that_does_not_divide(broken: Clone, tmp_path: Path) -> None:
    broken.change("train.global_batch_size", 61)
    assert "the nearest that it does: 60 or 62" in refusal(broken, "train", *TRAIN, out=tmp_path / "out")


@pytest.mark.parametrize("change", [{"num_workers": 30}, {"cpus_per_worker": 30}, {"device": "gpu"}])
def test_more_than_the_machine_can_place_is_refused_at_once(broken: Clone, tmp_path: Path, change: dict[str, Any]) -> None:
    for key, value in change.items():
        broken.change(f"train.{key}", value)
    begun = time.monotonic()
    told = refusal(broken, "train", *TRAIN, out=tmp_path / "out")
    if "device" not in change:  # that needs Ray to say how many GPUs there are
        assert time.monotonic() - begun < 5
    assert "can be placed" in told
    assert f"has {joblib.cpu_count()} CPU" in told


def test_a_model_that_no_entry_names(clone: Clone, tmp_path: Path) -> None:
    told = refusal(clone, "train", "--model", "vgg", *TRAIN[2:], out=tmp_path / "out")
    assert "not in train.models of params.yaml, which has cnn, resnet" in told


def test_altered_and_missing_raw_files_are_named(broken: Clone, tmp_path: Path) -> None:
    raw = broken.path / "data/raw/small"
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in raw.iterdir()}
    (raw / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    (raw / "train-images-idx3-ubyte").write_bytes(b"altered")
    (raw / "t10k-labels-idx1-ubyte").unlink()
    told = refusal(broken, "preprocess", out=tmp_path / "out")
    altered = hashlib.sha256(b"altered").hexdigest()
    assert f"train-images-idx3-ubyte: altered, expected sha256 {digests['train-images-idx3-ubyte']}, found {altered}" in told
    assert f"t10k-labels-idx1-ubyte: missing, expected sha256 {digests['t10k-labels-idx1-ubyte']}" in told


def test_a_damaged_shard_stops_whoever_reads_it(clone: Clone, tmp_path: Path) -> None:
    path = clone.path / "data/augmented/train/00000.parquet"
    kept = path.read_bytes()
    path.unlink()
    path.write_bytes(kept[:-1] + b"x")
    try:
        told = refusal(clone, "train", *TRAIN, out=tmp_path / "out")
        assert f"00000.parquet: expected sha256 {hashlib.sha256(kept).hexdigest()}, found" in told
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize("frozen", [False, True], ids=["nobody listens", "accepts and never answers"])
def test_a_tracking_server_that_does_not_answer_is_named_in_time(clone: Clone, tmp_path: Path, frozen: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if frozen:
            server.listen()
        address = f"http://user:secret@127.0.0.1:{server.getsockname()[1]}"
        begun = time.monotonic()
        told = refusal(clone, "train", *TRAIN, out=tmp_path / "out", MLFLOW_TRACKING_URI=address)
        assert time.monotonic() - begun < 30
    assert f"the tracking server {address.replace('secret', '***')} does not answer" in told
    assert "secret" not in told


def test_weights_that_are_not_those_of_the_result_are_not_registered(clone: Clone, tmp_path: Path) -> None:
    for name in ("weights.safetensors", "result.json", "history.csv"):
        source = "resnet" if name == "weights.safetensors" else "cnn"
        (tmp_path / name).write_bytes((clone.path / "models" / source / name).read_bytes())
    before = clone.versions()
    told = refusal(clone, "register", "--model", "cnn", "--trained", str(tmp_path), out=tmp_path / "receipt.json")
    assert "weights.safetensors: expected sha256" in told
    assert clone.versions() == before
