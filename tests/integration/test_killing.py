"""Commands are killed (SIGKILL) at a step: no half-written record, and the next run completes."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient

from components.models import weights
from components.models.architectures import build
from components.records.evaluation import ModelVerdict, Verdict
from components.records.receipt import Receipt
from components.records.training import Epoch, TrainResult
from components.registry import history, model_versions, packaging, verdicts
from components.tracking import creation, store
from pipelines import evaluate, promote, register
from tests.integration import killing
from tests.integration.conftest import PARAMS
from tests.integration.versions import (
    NAME,
    NETWORK,
    evaluate_version,
    make_verdict,
    register_version,
    write_test_split,
)

pytestmark = pytest.mark.slow

REGISTER = ["--model", "cnn", "--trained", "models/cnn", "--out", "models/cnn/receipt.json"]
EVALUATE = ["--models", "models", "--test", "test", "--out", "reports"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the parameters of one model and a store."""
    path = tmp_path_factory.mktemp("killed")
    values = yaml.safe_load(PARAMS.read_text())
    values["register"]["name"] = NAME
    values["evaluate"]["gates"] = dict.fromkeys(values["evaluate"]["gates"])
    del values["train"]["models"]["resnet"]
    (path / "params.yaml").write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(autouse=True)
def skip_comparison_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, trust the files beside the weights: to make them again takes seconds."""
    monkeypatch.setattr(packaging, "_is_reproduced", lambda *_: True)


@pytest.fixture
def registry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of the store, in its folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    monkeypatch.chdir(folder)
    return store.connect()


def write_training(folder: Path, seed: int) -> str:
    """Write the outs of a training and return the digest of its weights."""
    torch.manual_seed(seed)
    content = weights.serialize(NETWORK, build(NETWORK).state_dict())
    digest = hashlib.sha256(content).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(content)
    best = Epoch(
        epoch=1, step=5, learning_rate=0.1, train_loss=1, train_top1=0.5, val_loss=1, val_top1=0.5
    )
    with (folder / "history.csv").open("w", newline="") as file:
        csv.writer(file).writerows(zip(*best.model_dump().items(), strict=True))
    TrainResult(
        model="cnn", parameters=1, sha256=digest, fingerprint=digest, data={}, micro_batches=1,
        global_batch_size=1, device="cpu", precision="fp32", recipe={}, seed=seed, best=best,
    ).write(folder / "result.json")  # fmt: skip
    return digest


def require_whole_versions(client: MlflowClient) -> list[str]:
    """Check every version of the registry and return the digests of their weights."""
    versions = model_versions.list_versions(client, NAME)
    for version in versions:
        with model_versions.open_version(client, version) as stored:
            assert stored.sha256 == version.tags[model_versions.SHA256_TAG]
            packaging.load(stored, compare_files=False)
        if model_versions.STATUS_TAG in version.tags:
            verdicts.download_predictions(client, version)
    digests = [version.tags[model_versions.SHA256_TAG] for version in versions]
    assert len(set(digests)) == len(digests)
    return digests


def connect() -> None:
    store.connect()


def connect_and_die_while_tables_are_copied() -> None:
    statements = creation._list_statements()

    def copy_half() -> Iterator[str]:
        yield from statements[: len(statements) // 2]
        os.kill(os.getpid(), signal.SIGKILL)

    creation._list_statements = copy_half  # type: ignore[assignment]
    store.connect()


def test_store_whose_creation_was_killed_is_created_by_the_next_command(tmp_path: Path) -> None:
    killing.run(tmp_path, connect, kill_at="commit 30")
    killing.run(tmp_path, connect_and_die_while_tables_are_copied, kill_at="within the function")
    killing.run(tmp_path, connect)


def test_killed_register_is_completed_by_the_next_run(folder: Path, registry: MlflowClient) -> None:
    receipt = folder / "models/cnn/receipt.json"
    for number, kill_at in enumerate(("open model.pt2", "rename receipt.json"), 1):
        digest = write_training(folder / "models/cnn", seed=number)
        receipt.unlink(missing_ok=True)
        killing.run(folder, register.main, REGISTER, kill_at=kill_at)
        assert not receipt.exists()
        registered = require_whole_versions(registry)
        assert (digest in registered) == (kill_at == "rename receipt.json")
        killing.run(folder, register.main, REGISTER)
        assert Receipt.read(receipt).sha256 == digest
        assert require_whole_versions(registry)[-1] == digest
        assert len(require_whole_versions(registry)) == number


def test_killed_evaluate_leaves_no_status_of_another_verdict(
    folder: Path, registry: MlflowClient
) -> None:
    receipt = register_version(registry, seed=50)
    evaluate_version(registry, receipt, 1900)
    predictions = b"other predictions"
    verdict = make_verdict(receipt, passed=False, predictions=predictions)
    arguments = (receipt, verdict, predictions)
    version = model_versions.get(registry, NAME, receipt.version)
    passed = dict(version.tags)
    for kill_at in ("commit 2", "rename predictions.parquet", "commit 4"):
        killing.run(folder, record, *arguments, kill_at=kill_at)
        version = model_versions.get(registry, NAME, receipt.version)
        if model_versions.STATUS_TAG in version.tags:
            assert version.tags == passed
            verdicts.download_predictions(registry, version)
    killing.run(folder, record, *arguments)
    version = model_versions.get(registry, NAME, receipt.version)
    assert version.tags[model_versions.STATUS_TAG] == "failed"
    assert verdicts.get_verdict(version) == verdict
    assert verdicts.download_predictions(registry, version) == predictions


def record(receipt: Receipt, verdict: ModelVerdict, predictions: bytes) -> None:
    verdicts.record_verdict(store.connect(), receipt, verdict, predictions, verdict.metrics)


def test_killed_evaluate_leaves_the_old_reports_and_the_next_run_writes_them(
    folder: Path, registry: MlflowClient
) -> None:
    receipt = register_version(registry, seed=51)
    receipt.write(folder / "models/cnn/receipt.json")
    write_test_split(registry, receipt, folder / "test", wrong=100)
    (folder / "reports").mkdir()
    (folder / "reports" / "old").touch()
    killing.run(folder, evaluate.main, EVALUATE, kill_at="rename reports")
    assert not (folder / "reports" / "verdict.json").exists()
    killing.run(folder, evaluate.main, EVALUATE)
    written = Verdict.read(folder / "reports" / "verdict.json").models["cnn"]
    version = model_versions.get(registry, NAME, receipt.version)
    assert verdicts.get_verdict(version) == written
    assert sorted(path.name for path in folder.glob(".*")) == []
    require_whole_versions(registry)


def move(arguments: list[str]) -> None:
    """Promote or roll back without the comparison of files, which takes seconds."""
    packaging._is_reproduced = lambda *_: True  # type: ignore[assignment]
    promote.main(arguments)


def test_killed_moves_are_void_or_completed_by_the_next_run(
    folder: Path, registry: MlflowClient
) -> None:
    receipts = [register_version(registry, seed) for seed in (50, 51)]
    for receipt, num_correct in zip(receipts, (1600, 1900), strict=True):
        evaluate_version(registry, receipt, num_correct)
    first, second = (receipt.version for receipt in receipts)
    promote.promote(first, "before")
    for arguments, target in (
        (["--version", str(second), "--reason", "r"], second),
        (["--rollback", "--reason", "r"], first),
    ):
        before = history.get_alias_state(registry, NAME, "champion")
        for kill_at, num_recorded in (("commit 2", 0), ("commit 3", 1)):
            killing.run(folder, move, arguments, kill_at=kill_at)
            state = history.get_alias_state(registry, NAME, "champion")
            assert state.current_version == before.current_version
            assert len(state.moves) == len(before.moves) + num_recorded
            assert state.interrupted == bool(num_recorded)
        killing.run(folder, move, arguments)
        state = history.get_alias_state(registry, NAME, "champion")
        assert state.current_version == state.expected_version == target
        assert len(state.moves) == len(before.moves) + 1
