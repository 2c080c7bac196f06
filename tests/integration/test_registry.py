"""The registry refuses what it cannot trust. In-process, on a store of its own."""

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

from components.errors import UserError
from components.models import build
from components.paths import ROOT
from components.registry import model_versions
from components.tracking import runs, store
from tests.integration.versions import NAME, NETWORK, folder, make, verdict


@pytest.mark.parametrize("mirror", [False, True])
def test_what_is_stored_is_found_by_its_digest_and_loads_for_any_batch(client: Any, mirror: bool) -> None:
    network = NETWORK.model_copy(update={"mirror": mirror})
    receipt = make(client, seed=1, network=network)
    assert model_versions.find(client, NAME, receipt.sha256).version == receipt.version
    assert model_versions.find(client, NAME, "0" * 64) is None
    loaded = model_versions.load(receipt)
    assert (loaded.sha256, loaded.network) == (receipt.sha256, network)
    torch.manual_seed(1)
    expected = build(network).eval()
    for rows in (1, 2, 7):
        images = torch.randint(0, 256, (rows, 12, 12, 1), dtype=torch.uint8)
        with torch.inference_mode():
            assert torch.allclose(loaded.module(images), expected(images), atol=1e-5)


def test_spare_versions_of_the_same_bytes_go_but_somebodys_copy_stays(client: Any) -> None:
    receipt = make(client, seed=30)
    first = model_versions.get(client, NAME, receipt.version)
    judged, named, spare = (
        client.create_model_version(NAME, source=first.source, run_id=first.run_id, tags=dict(first.tags)) for _ in range(3)
    )
    client.set_model_version_tag(NAME, judged.version, model_versions.STATUS, "passed")
    client.set_registered_model_alias(NAME, "mine", named.version)
    assert model_versions.find(client, NAME, receipt.sha256).version == first.version
    left = [v.version for v in model_versions.versions(client, NAME) if v.tags[model_versions.SHA256] == receipt.sha256]
    assert left == [first.version, judged.version, named.version]
    client.delete_registered_model_alias(NAME, "mine")
    assert model_versions.find(client, NAME, receipt.sha256).version == first.version
    assert spare.version not in [v.version for v in model_versions.versions(client, NAME)]


def test_anyone_can_load_it_with_mlflow_alone_and_pickle_off(client: Any) -> None:
    import mlflow.pyfunc

    receipt = make(client, seed=2)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/{receipt.version}")
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 12, 12, 1)
    assert model.predict(np.zeros((1, 12, 12, 1), np.uint8)).shape == (1, 3)
    assert store.os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_a_receipt_of_another_registry_is_refused(client: Any) -> None:
    receipt = make(client, seed=3)
    with pytest.raises(UserError, match=r"is from another registry; register it again with `dvc repro -s -f register@cnn`"):
        model_versions.load(receipt.model_copy(update={"model_id": "m-other"}))
    with pytest.raises(UserError, match="version 999 is not in this registry"):
        model_versions.load(receipt.model_copy(update={"version": 999}))


def test_what_was_judged_must_still_be_there_to_the_byte(client: Any) -> None:
    receipt, other = make(client, seed=4), make(client, seed=5)
    with pytest.raises(UserError, match="was never evaluated"):
        model_versions.intact(model_versions.get(client, NAME, receipt.version))
    model_versions.record_verdict(client, receipt, verdict(receipt), b"none", {"top1": 0.9})
    version = model_versions.get(client, NAME, receipt.version)
    assert model_versions.intact(version)[0] == verdict(receipt)
    assert model_versions.predictions_of(version) == b"none"
    described = folder(client, receipt) / "MLmodel"
    kept = described.read_text()
    described.write_text(kept + "# touched\n")
    with pytest.raises(UserError, match="altered after its verdict: its files were judged with sha256"):
        model_versions.intact(version)
    described.write_text(kept)
    archive = Path("data") / "model.pt2"
    shutil.copy(folder(client, other) / archive, folder(client, receipt) / archive)
    with pytest.raises(UserError, match=f"its weights were judged with sha256 {receipt.sha256}, now it is {other.sha256}"):
        model_versions.intact(version)
    with pytest.raises(UserError, match=f"expected sha256 {receipt.sha256}, found {other.sha256}"):
        model_versions.load(receipt)


def describe(path: Path, **flavor: Any) -> None:
    described = yaml.safe_load((path / "MLmodel").read_text())
    for name, facts in flavor.items():
        described["flavors"][name] |= facts
    (path / "MLmodel").write_text(yaml.safe_dump(described))


@pytest.mark.parametrize("hostile", ["code folder", "code in the flavor", "foreign loader", "pickle", "pickle in the archive"])
def test_a_version_that_brings_code_is_refused_and_none_of_it_has_run(client: Any, tmp_path: Path, hostile: str) -> None:
    receipt = make(client, seed=hash(hostile) % 1000)
    path, ran = folder(client, receipt), tmp_path / "ran"
    bomb = f"open({str(ran)!r}, 'w').close()\n"
    if hostile == "code folder":
        (path / "code").mkdir()
        (path / "code" / "torch.py").write_text(bomb)
    elif hostile == "code in the flavor":
        (path / "extra").mkdir()
        (path / "extra" / "evil.py").write_text(bomb)
        describe(path, pytorch={"code": "extra"})
    elif hostile == "foreign loader":
        (tmp_path / "evil_loader.py").write_text(bomb)
        sys.path.insert(0, str(tmp_path))
        describe(path, python_function={"loader_module": "evil_loader"})
    else:
        payload = tmp_path / "model.pth"
        torch.save(Bomb(bomb), payload)
        if hostile == "pickle":
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
    """Runs a line of code when it is unpickled."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> Any:
        return exec, (self.line,)


def test_a_store_that_gives_back_something_else_gets_no_version(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(client.search_model_versions(f"name = '{NAME}'"))
    torch.manual_seed(9)
    module = build(NETWORK)
    run_id = runs.import_run(client, store.experiment(client, NAME), "cnn", {}, {}, [])
    with pytest.raises(UserError, match="does not hold what was stored there: expected sha256 beef"):
        model_versions.create(client, NAME, "cnn", module, NETWORK, "beef", run_id, {})
    assert len(client.search_model_versions(f"name = '{NAME}'")) == before


def test_the_same_epoch_is_logged_once_however_often_it_is_told(client: Any) -> None:
    from components.records.training import Epoch

    row = Epoch(epoch=1, step=5, learning_rate=0.1, train_loss=1.0, train_top1=0.5, val_loss=1.0, val_top1=0.5)
    with runs.training_run(client, NAME, "cnn", {"a": {"b": 1}}, {}, {"training": (".", "0" * 64)}) as run:
        for _ in range(3):
            run.epoch(row)
    assert run.spooled is None
    assert len(client.get_metric_history(run.run_id, "val_top1")) == 1
    told = client.get_run(run.run_id)
    assert (told.info.status, told.data.params) == ("FINISHED", {"a.b": "1"})


def test_a_run_of_a_moment_tells_how_busy_its_machine_was(client: Any) -> None:
    with runs.training_run(client, NAME, "brief", {}, {}, {}) as run:
        pass
    told = client.get_run(run.run_id).data.metrics
    assert 0 < told["system/system_memory_usage_percentage"] < 100
    assert "system/cpu_utilization_percentage" in told


def test_a_training_that_fails_is_a_failed_run(client: Any) -> None:
    def fail() -> None:
        with runs.training_run(client, NAME, "broken", {}, {}, {}):
            raise UserError("on purpose")

    with pytest.raises(UserError, match="on purpose"):
        fail()
    found = client.search_runs([store.experiment(client, NAME)], "tags.`kiln.model` = 'broken'")
    assert [run.info.status for run in found] == ["FAILED"]


def test_a_full_disk_makes_no_version_and_is_told(client: Any, tmp_path: Path) -> None:
    name = "crammed"
    small = tmp_path / "disk"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.strip()}")
    try:
        client.create_experiment(name, artifact_location=str(small))
        with pytest.raises(UserError, match=r"could not be stored .*No space left on device.* no version was made"):
            make(client, seed=20, name=name)
        assert model_versions.versions(client, name) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert make(client, seed=20, name=name).version == 1, "with room again it works"


def test_a_database_that_somebody_else_holds_for_a_while_is_waited_for(client: Any, home: Path) -> None:
    holder = sqlite3.connect(home / "mlflow.db", check_same_thread=False, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    threading.Timer(3, lambda: holder.execute("ROLLBACK")).start()
    begun = time.monotonic()
    receipt = make(client, seed=21)
    assert time.monotonic() - begun > 2
    assert model_versions.load(receipt).sha256 == receipt.sha256


def test_two_processes_of_twenty_registrations_leave_one_version_per_model(client: Any, home: Path) -> None:
    code = (
        "from components.tracking import store; from tests.integration.versions import make; c = store.connect();"
        "print(sorted({(n % 7, make(c, 900 + n % 7, 'crowd').version) for n in range(20)}))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert told[0][0].splitlines()[-1] == told[1][0].splitlines()[-1], "everybody got the same version for the same model"
    versions = model_versions.versions(client, "crowd")
    assert len(versions) == 7
    assert len({v.tags["kiln.sha256"] for v in versions}) == 7
    assert all(v.tags["kiln.model"] == "cnn" for v in versions)
