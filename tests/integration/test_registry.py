"""Versions and runs on an embedded store: registration, verification, refusals, faults."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient

from components.errors import UserError
from components.models.architectures import build
from components.paths import ROOT
from components.records.training import Epoch
from components.registry import model_versions, verdicts
from components.tracking import runs, store, training_run
from tests.integration.versions import (
    NAME,
    NETWORK,
    files_of_version,
    make_verdict,
    register_version,
)


@pytest.mark.parametrize("mirror", [False, True])
def test_version_is_found_by_digest_and_loads_for_any_batch_size(
    client: MlflowClient, mirror: bool
) -> None:
    network = NETWORK.model_copy(update={"mirror": mirror})
    receipt = register_version(client, seed=1, network=network)
    assert model_versions.find_by_digest(client, NAME, receipt.sha256).version == receipt.version
    assert model_versions.find_by_digest(client, NAME, "0" * 64) is None
    loaded = model_versions.load(receipt)
    assert (loaded.sha256, loaded.network) == (receipt.sha256, network)
    torch.manual_seed(1)
    expected = build(network).eval()
    for rows in (1, 2, 7):
        images = torch.randint(0, 256, (rows, 12, 12, 1), dtype=torch.uint8)
        with torch.inference_mode():
            assert torch.allclose(loaded.module(images), expected(images), atol=1e-5)


def test_duplicate_versions_are_deleted_unless_judged_or_aliased(client: MlflowClient) -> None:
    receipt = register_version(client, seed=30)
    first = model_versions.get(client, NAME, receipt.version)
    judged, aliased, duplicate = (
        client.create_model_version(
            NAME, source=first.source, run_id=first.run_id, tags=dict(first.tags)
        )
        for _ in range(3)
    )
    client.set_model_version_tag(NAME, judged.version, model_versions.STATUS_TAG, "passed")
    client.set_registered_model_alias(NAME, "kept", aliased.version)
    assert model_versions.find_by_digest(client, NAME, receipt.sha256).version == first.version
    remaining = [
        v.version
        for v in model_versions.list_versions(client, NAME)
        if v.tags[model_versions.SHA256_TAG] == receipt.sha256
    ]
    assert remaining == [first.version, judged.version, aliased.version]
    client.delete_registered_model_alias(NAME, "kept")
    assert model_versions.find_by_digest(client, NAME, receipt.sha256).version == first.version
    numbers = [v.version for v in model_versions.list_versions(client, NAME)]
    assert duplicate.version not in numbers


def test_version_loads_with_mlflow_alone_and_pickle_disabled(client: MlflowClient) -> None:
    import mlflow.pyfunc

    receipt = register_version(client, seed=2)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/{receipt.version}")
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 12, 12, 1)
    assert model.predict(np.zeros((1, 12, 12, 1), np.uint8)).shape == (1, 3)
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_receipt_of_another_registry_is_refused(client: MlflowClient) -> None:
    receipt = register_version(client, seed=3)
    with pytest.raises(
        UserError,
        match=r"is from another registry; register it again with `dvc repro -s -f register@cnn`",
    ):
        model_versions.load(receipt.model_copy(update={"model_id": "m-other"}))
    with pytest.raises(UserError, match="version 999 is not in this registry"):
        model_versions.load(receipt.model_copy(update={"version": 999}))


def test_altered_files_and_weights_are_refused_after_the_verdict(client: MlflowClient) -> None:
    receipt = register_version(client, seed=4)
    other = register_version(client, seed=5)
    with pytest.raises(UserError, match="was never evaluated"):
        verdicts.load_verified(model_versions.get(client, NAME, receipt.version))
    verdicts.record_verdict(client, receipt, make_verdict(receipt), b"none", {"top1": 0.9})
    version = model_versions.get(client, NAME, receipt.version)
    assert verdicts.load_verified(version)[0] == make_verdict(receipt)
    assert verdicts.download_predictions(version) == b"none"
    description = files_of_version(client, receipt) / "MLmodel"
    original = description.read_text()
    description.write_text(original + "# touched\n")
    with pytest.raises(
        UserError, match="altered after its verdict: its files were judged with sha256"
    ):
        verdicts.load_verified(version)
    description.write_text(original)
    archive = Path("data") / "model.pt2"
    shutil.copy(
        files_of_version(client, other) / archive, files_of_version(client, receipt) / archive
    )
    with pytest.raises(
        UserError,
        match=f"its weights were judged with sha256 {receipt.sha256}, now it is {other.sha256}",
    ):
        verdicts.load_verified(version)
    with pytest.raises(UserError, match=f"expected sha256 {receipt.sha256}, found {other.sha256}"):
        model_versions.load(receipt)


def change_flavors(path: Path, **changes: dict[str, str]) -> None:
    """Change the configuration of flavors in a model's `MLmodel` file."""
    description = yaml.safe_load((path / "MLmodel").read_text())
    for name, change in changes.items():
        description["flavors"][name] |= change
    (path / "MLmodel").write_text(yaml.safe_dump(description))


ATTACKS = ("code folder", "code in the flavor", "foreign loader", "pickle", "pickle in the archive")


@pytest.mark.parametrize("attack", ATTACKS)
def test_version_with_code_is_refused_before_any_of_it_runs(
    client: MlflowClient, tmp_path: Path, attack: str
) -> None:
    receipt = register_version(client, seed=100 + ATTACKS.index(attack))
    path = files_of_version(client, receipt)
    ran = tmp_path / "ran"
    bomb = f"open({str(ran)!r}, 'w').close()\n"
    if attack == "code folder":
        (path / "code").mkdir()
        (path / "code" / "torch.py").write_text(bomb)
    elif attack == "code in the flavor":
        (path / "extra").mkdir()
        (path / "extra" / "evil.py").write_text(bomb)
        change_flavors(path, pytorch={"code": "extra"})
    elif attack == "foreign loader":
        (tmp_path / "evil_loader.py").write_text(bomb)
        sys.path.insert(0, str(tmp_path))
        change_flavors(path, python_function={"loader_module": "evil_loader"})
    else:
        payload = tmp_path / "model.pth"
        torch.save(Bomb(bomb), payload)
        if attack == "pickle":
            shutil.copy(payload, path / "data" / "model.pth")
            (path / "data" / "pickle_module_info.txt").write_text("pickle")
        else:
            shutil.copy(payload, path / "data" / "model.pt2")
    try:
        with pytest.raises(UserError, match="is refused"):
            model_versions.load(receipt)
    finally:
        if str(tmp_path) in sys.path:
            sys.path.remove(str(tmp_path))
    assert not ran.exists()


class Bomb:
    """An object that runs a line of code when it is unpickled."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> Any:
        return exec, (self.line,)


def test_no_version_if_the_store_returns_other_weights(
    client: MlflowClient,
) -> None:
    before = len(client.search_model_versions(f"name = '{NAME}'"))
    torch.manual_seed(9)
    module = build(NETWORK)
    run_id = runs.import_run(client, store.ensure_experiment(client, NAME), "cnn", {}, {}, [])
    with pytest.raises(
        UserError, match="does not hold what was stored there: expected sha256 beef"
    ):
        model_versions.create(client, NAME, "cnn", module, NETWORK, "beef", run_id, {})
    assert len(client.search_model_versions(f"name = '{NAME}'")) == before


def test_epoch_is_logged_once_even_if_reported_again(client: MlflowClient) -> None:
    row = Epoch(
        epoch=1,
        step=5,
        learning_rate=0.1,
        train_loss=1.0,
        train_top1=0.5,
        val_loss=1.0,
        val_top1=0.5,
    )
    with training_run.open_training_run(
        client, NAME, "cnn", {"a": {"b": 1}}, {}, {"training": (".", "0" * 64)}
    ) as run:
        for _ in range(3):
            run.log_epoch(row)
    assert run.spooled is None
    assert len(client.get_metric_history(run.run_id, "val_top1")) == 1
    finished = client.get_run(run.run_id)
    assert (finished.info.status, finished.data.params) == ("FINISHED", {"a.b": "1"})


def test_load_of_the_machine_is_logged(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with training_run.open_training_run(client, NAME, "cnn", {}, {}, {}) as run:
        deadline = time.monotonic() + 60
        while not client.get_run(run.run_id).data.metrics and time.monotonic() < deadline:
            time.sleep(0.1)
    metrics = client.get_run(run.run_id).data.metrics
    assert 0 < metrics["system/system_memory_usage_percentage"] < 100
    assert "system/cpu_utilization_percentage" in metrics


def test_failed_training_is_a_failed_run(client: MlflowClient) -> None:
    def fail() -> None:
        with training_run.open_training_run(client, NAME, "broken", {}, {}, {}):
            raise UserError("on purpose")

    with pytest.raises(UserError, match="on purpose"):
        fail()
    failed = client.search_runs(
        [store.ensure_experiment(client, NAME)], "tags.`kiln.model` = 'broken'"
    )
    assert [run.info.status for run in failed] == ["FAILED"]


def test_full_disk_is_reported_and_makes_no_version(client: MlflowClient, tmp_path: Path) -> None:
    name = "full-disk"
    small = tmp_path / "disk"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.strip()}")
    try:
        client.create_experiment(name, artifact_location=str(small))
        with pytest.raises(
            UserError, match=r"could not be stored .*No space left on device.* no version was made"
        ):
            register_version(client, seed=20, name=name)
        assert model_versions.list_versions(client, name) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert register_version(client, seed=20, name=name).version == 1, (
        "registration works again on a disk with space"
    )


def test_registration_waits_for_a_locked_database(client: MlflowClient, home: Path) -> None:
    locker = sqlite3.connect(home / "mlflow.db", check_same_thread=False, isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    threading.Timer(3, lambda: locker.execute("ROLLBACK")).start()
    start = time.monotonic()
    receipt = register_version(client, seed=21)
    assert time.monotonic() - start > 2
    assert model_versions.load(receipt).sha256 == receipt.sha256


def test_concurrent_registrations_leave_one_version_per_model(
    client: MlflowClient, home: Path
) -> None:
    code = (
        "from components.tracking import store\n"
        "from tests.integration.versions import register_version\n"
        "client = store.connect()\n"
        "print(sorted({(n % 7, register_version(client, 900 + n % 7, 'crowd').version)"
        " for n in range(20)}))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=home,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    versions_seen = [output.splitlines()[-1] for output, _ in outputs]
    assert versions_seen[0] == versions_seen[1], "both processes got the same versions"
    versions = model_versions.list_versions(client, "crowd")
    assert len(versions) == 7
    assert len({v.tags["kiln.sha256"] for v in versions}) == 7
    assert all(v.tags["kiln.model"] == "cnn" for v in versions)
