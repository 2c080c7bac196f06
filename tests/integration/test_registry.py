"""Versions and runs on an embedded store: registration, verification, refusals, faults."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from components.errors import UserError
from components.models.architectures import build
from components.paths import ROOT
from components.records.training import Epoch
from components.registry import model_versions, packaging, verdicts
from components.tracking import store, training_run
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
    loaded = model_versions.load(client, receipt)
    assert (loaded.sha256, loaded.network) == (receipt.sha256, network)
    assert loaded.reproduced
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
        model_versions.load(client, receipt.model_copy(update={"model_id": "m-other"}))
    with pytest.raises(UserError, match="version 999 is not in this registry"):
        model_versions.load(client, receipt.model_copy(update={"version": 999}))


def test_altered_files_and_weights_are_refused_after_the_verdict(client: MlflowClient) -> None:
    receipt = register_version(client, seed=4)
    other = register_version(client, seed=5)
    with pytest.raises(UserError, match="was never evaluated"):
        verdicts.load_verified(client, model_versions.get(client, NAME, receipt.version))
    verdicts.record_verdict(client, receipt, make_verdict(receipt), b"none", {"top1": 0.9})
    version = model_versions.get(client, NAME, receipt.version)
    assert verdicts.load_verified(client, version)[0] == make_verdict(receipt)
    assert verdicts.download_predictions(client, version) == b"none"
    description = files_of_version(client, receipt) / "MLmodel"
    original = description.read_text()
    description.write_text(original + "# touched\n")
    with pytest.raises(
        UserError, match="altered after its verdict: its files were judged with sha256"
    ):
        verdicts.load_verified(client, version)
    description.write_text(original)
    archive = Path("weights.safetensors")
    shutil.copy(
        files_of_version(client, other) / archive, files_of_version(client, receipt) / archive
    )
    with pytest.raises(
        UserError,
        match=f"its weights were judged with sha256 {receipt.sha256}, now it is {other.sha256}",
    ):
        verdicts.load_verified(client, version)
    with pytest.raises(UserError, match=f"expected sha256 {receipt.sha256}, found {other.sha256}"):
        model_versions.load(client, receipt)


def change_description(path: Path, flavor: str, **changes: Any) -> None:
    description = yaml.safe_load((path / "MLmodel").read_text())
    description["flavors"][flavor] |= changes
    (path / "MLmodel").write_text(yaml.safe_dump(description))


def plant_expression(program: Path, code: str) -> None:
    """Put `code` into a pt2 file, where `torch.export.load` evaluates it as a sympy expression."""
    with zipfile.ZipFile(program) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(name for name in records if name.endswith("models/model.json"))
    text = records[name].decode()
    symbol = re.search(r'"expr_str": ("Symbol[^"]*")', text)
    assert symbol, "the batch size of the program is a symbol"
    records[name] = text.replace(symbol[1], json.dumps(f"{code} or {symbol[1][1:-1]}")).encode()
    with zipfile.ZipFile(program, "w") as archive:
        for path, content in records.items():
            archive.writestr(path, content)


class Bomb:
    """An object that runs a line of code when it is unpickled."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> Any:
        return exec, (self.line,)


class Attack:
    """Changes that an account makes which may write model files."""

    def __init__(self, path: Path, ran: Path) -> None:
        self.path = path
        self.bomb = f"open({str(ran)!r}, 'w').close()\n"

    def code_folder(self) -> None:
        (self.path / "code").mkdir()
        (self.path / "code" / "torch.py").write_text(self.bomb)

    def code_in_the_flavor(self) -> None:
        change_description(self.path, "pytorch", code="data")

    def foreign_loader(self) -> None:
        change_description(self.path, "python_function", loader_module="antigravity")

    def pickle_beside_the_program(self) -> None:
        torch.save(Bomb(self.bomb), self.path / "data" / "model.pth")

    def pickle_as_program(self) -> None:
        torch.save(Bomb(self.bomb), self.path / "data" / "model.pt2")

    def pickle_as_weights(self) -> None:
        torch.save(Bomb(self.bomb), self.path / "weights.safetensors")

    def expression_in_the_program(self) -> None:
        plant_expression(self.path / "data" / "model.pt2", f"exec({self.bomb!r})")

    def other_program(self) -> None:
        program = self.path / "data" / "model.pt2"
        module = build(NETWORK).eval()
        images = torch.zeros((2, *NETWORK.shape), dtype=torch.uint8)
        shapes = [{0: torch.export.Dim.AUTO}]
        torch.export.save(torch.export.export(module, (images,), dynamic_shapes=shapes), program)

    def other_files_for_the_function(self) -> None:
        change_description(self.path, "python_function", data="other")

    def other_files_for_the_function_with_a_copy(self) -> None:
        shutil.copytree(self.path / "data", self.path / "other")
        change_description(self.path, "python_function", data="other")

    def file_of_mlflow_s_name(self) -> None:
        (self.path / "data" / "registered_model_meta").write_bytes(b"anything")

    def package_in_the_requirements(self) -> None:
        with (self.path / "requirements.txt").open("a") as file:
            file.write("\nevil @ http://127.0.0.1/evil.whl\n")

    def index_in_the_environment(self) -> None:
        path = self.path / "python_env.yaml"
        path.write_text(path.read_text() + "- --index-url http://127.0.0.1/\n")

    def malformed_description(self) -> None:
        (self.path / "MLmodel").write_bytes(b"\xff{[")

    def huge_description(self) -> None:
        with (self.path / "MLmodel").open("ab") as file:
            file.truncate(3 << 20)

    def missing_description(self) -> None:
        (self.path / "MLmodel").unlink()

    def link(self) -> None:
        (self.path / "MLmodel").unlink()
        (self.path / "MLmodel").symlink_to("/etc/hostname")

    def link_to_nothing(self) -> None:
        (self.path / "MLmodel").unlink()
        (self.path / "MLmodel").symlink_to(self.path / "nothing")

    def link_to_itself(self) -> None:
        (self.path / "MLmodel").unlink()
        (self.path / "MLmodel").symlink_to("MLmodel")

    def link_to_endless_weights(self) -> None:
        (self.path / "weights.safetensors").unlink()
        (self.path / "weights.safetensors").symlink_to("/dev/zero")

    def linked_folder(self) -> None:
        (self.path / "data").rename(self.path.parent / "data")
        (self.path / "data").symlink_to(self.path.parent / "data")

    def pipe(self) -> None:
        (self.path / "MLmodel").unlink()
        os.mkfifo(self.path / "MLmodel")

    def weights_larger_than_the_disk(self) -> None:
        os.truncate(self.path / "weights.safetensors", 8 << 40)


ATTACKS = sorted(name for name in vars(Attack) if not name.startswith("_"))


@pytest.mark.parametrize("attack", ATTACKS)
def test_altered_files_are_refused_and_nothing_of_them_runs(
    client: MlflowClient, tmp_path: Path, attack: str
) -> None:
    ran = tmp_path / "ran"
    receipt = register_version(client, seed=100)
    path = files_of_version(client, receipt)
    kept = tmp_path / "kept"
    shutil.copytree(path, kept)
    try:
        getattr(Attack(path, ran), attack)()
        with pytest.raises(
            UserError,
            match=r"is refused|does not hold the trained weights|cannot be read|has room for",
        ) as caught:
            model_versions.load(client, receipt)
    finally:
        shutil.rmtree(path)
        shutil.rmtree(path.parent / "data", ignore_errors=True)
        shutil.copytree(kept, path)
    assert not ran.exists()
    assert "Traceback" not in str(caught.value)


def test_planted_expression_runs_where_mlflow_loads_it(
    client: MlflowClient, tmp_path: Path
) -> None:
    """The attack is real: this is why Kiln loads no program. An upstream fix turns this red."""
    ran = tmp_path / "ran"
    receipt = register_version(client, seed=101)
    Attack(files_of_version(client, receipt), ran).expression_in_the_program()
    with contextlib.suppress(Exception):
        mlflow.pytorch.load_model(f"models:/{NAME}/{receipt.version}")
    assert ran.exists()


def test_other_versions_of_libraries_make_files_that_cannot_be_compared(
    client: MlflowClient, tmp_path: Path
) -> None:
    receipt = register_version(client, seed=102)
    path = files_of_version(client, receipt)
    for name in ("requirements.txt", "conda.yaml"):
        text = (path / name).read_text()
        (path / name).write_text(re.sub(r"torch==[\w.]+", "torch==2.14.1", text))
    text = (path / "MLmodel").read_text()
    (path / "MLmodel").write_text(re.sub("pytorch_version: .*", "pytorch_version: 2.14.1", text))
    (path / "data" / "model.pt2").write_bytes(b"made by another torch")
    loaded = model_versions.load(client, receipt)
    assert (loaded.sha256, loaded.reproduced) == (receipt.sha256, False)


@pytest.mark.parametrize(
    ("architecture", "mirror"), [("cnn", True), ("resnet14", False), ("resnet18", False)]
)
def test_files_are_the_same_in_every_process_and_the_program_gives_equal_logits(
    tmp_path: Path, architecture: str, mirror: bool
) -> None:
    network = NETWORK.model_copy(
        update={"architecture": architecture, "mirror": mirror, "shape": (32, 24, 1)}
    )
    entity = LoggedModel("0", "m-" + "0" * 32, "cnn", "", 1_700_000_000_000, 0, source_run_id="1")
    torch.manual_seed(0)
    module = build(network)
    for folder in ("one", "two"):
        packaging.write(tmp_path / folder, module, network, entity)
    for name in packaging.FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert str(ROOT).encode() not in (tmp_path / "one" / packaging.PROGRAM).read_bytes()
    program = mlflow.pytorch.load_model(str(tmp_path / "one"))
    for rows in (1, 5):
        images = torch.randint(0, 256, (rows, *network.shape), dtype=torch.uint8)
        with torch.inference_mode():
            assert torch.equal(program(images), module(images))


def test_no_version_if_the_store_returns_other_files(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = MlflowClient.log_model_artifacts

    def upload_and_damage(self: MlflowClient, model_id: str, folder: str) -> None:
        upload(self, model_id, folder)
        location = Path(self.get_logged_model(model_id).artifact_location.removeprefix("file://"))
        (location / "weights.safetensors").write_bytes(b"bits flipped on the disk")

    before = len(model_versions.list_versions(client, NAME))
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", upload_and_damage)
    with pytest.raises(
        UserError, match=r"does not hold what was stored there: weights.safetensors was written"
    ):
        register_version(client, seed=103)
    assert len(model_versions.list_versions(client, NAME)) == before


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
        deadline = time.monotonic() + 300
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
    assert model_versions.load(client, receipt).sha256 == receipt.sha256


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
