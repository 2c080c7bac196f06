"""Faults in the middle of a training: the same bytes in the end, or one clear error. `README.md` here has the table."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from components.errors import UserError
from components.orchestration.checkpoints import Checkpoints
from components.orchestration.job import Job
from components.ray_session.session import session
from tests.integration.faults import CGROUP, EPOCHS, STEPS, Fault, Told, make_job, same, train


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    with session():
        yield


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a training that nothing happens to returns."""
    returned, told = train(make_job(data, tmp_path_factory.mktemp("whole")))
    assert [event["epoch"] for event in told.events if event["kind"] == "epoch"] == [1, 2, 3]
    assert not told.steps_resumed()
    return returned


@pytest.mark.skipif(not os.access(CGROUP, os.W_OK), reason="memory cgroups cannot be made here")
def test_ranks_that_die_cost_a_few_steps_each(data: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    faults = [
        Fault("kill", 5, rank=1),
        Fault("kill while writing", 11, rank=0),  # states fall due three steps after the one before, and at an epoch's end
        Fault("raise", 14, rank=1),
        Fault("memory", 22, rank=1),  # the kernel's killer comes for it
    ]
    returned, told = train(make_job(data, tmp_path), *faults)
    for group in CGROUP.glob("kiln-test-*"):
        group.rmdir()
    same(returned, whole)
    # The writer works beside the loop: the newest state may not have been on the disk yet.
    assert len(told.steps_resumed()) == 4
    for resumed, (low, high) in zip(told.steps_resumed(), [(0, 5), (3, 8), (8, 14), (16, 22)], strict=True):
        assert low <= resumed <= high, told.steps_resumed()


def test_an_error_that_comes_again_ends_it_with_its_cause(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the same way 2 times: RuntimeError: boom .*\(epoch 2, step 6 of 8\)"):
        train(make_job(data, tmp_path), Fault("raise", 13, rank=1, forever=True), max_failures=50)


def test_ranks_without_progress_are_noticed(data: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    """One is frozen; later all are stuck; then one goes as if it had fewer batches than the others."""
    faults = [Fault("freeze", 5, rank=1), Fault("hang", 13), Fault("leave", 21, rank=1)]
    returned, told = train(make_job(data, tmp_path, watchdog_s=6), *faults)
    same(returned, whole)
    assert len(told.steps_resumed()) == 3
    kept = re.findall(r"rank \d made no step for 6 s and was ended; its stacks: (\S+)", told.warnings())
    stacks = [Path(name).read_text() for name in kept]
    assert any("ordered_sum" in text and "in happen" not in text for text in stacks), "waiting for the frozen one"
    assert any("in happen" in text for text in stacks), "stuck itself"


def test_rays_controller_may_die(data: Path, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster, where it is a process of its own."""
    monkeypatch.setattr("components.orchestration.trainer.Attempt._whole", lambda _: True)
    returned, told = train(make_job(data, tmp_path), Fault("kill the controller", 13, rank=1))
    same(returned, whole)
    assert told.steps_resumed()
    assert "controller died" in told.warnings()


def test_a_loss_that_is_not_a_number_saves_nothing(data: Path, tmp_path: Path) -> None:
    job = make_job(data, tmp_path)
    with pytest.raises(UserError, match=r"epoch 2, step 6 of 8: the loss is nan \(rank 1: train/") as error:
        train(job, Fault("not a number", 13, rank=1))
    assert "the step was not made" in str(error.value)
    checkpoints = Checkpoints(job.open_store(), job.fingerprint, 2)
    data_ = checkpoints.newest(lambda event: pytest.fail(event["text"]))
    assert data_ is not None
    assert checkpoints.read(data_)["step"] == 11


@pytest.fixture(scope="module")
def interrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A training that failed for good in its second epoch, with two checkpoints."""
    job = make_job(data, tmp_path_factory.mktemp("interrupted"))
    with pytest.raises(UserError, match="boom"):
        train(job, Fault("raise", 13, rank=1, forever=True), max_failures=0)
    return job


def again(job: Job, storage: Path, **values: Any) -> Job:
    """The same training with a copy of its storage."""
    shutil.copytree(job.storage, storage, dirs_exist_ok=True)
    return dataclasses.replace(job, storage=str(storage), scratch=partial(Path, storage), **values)


def test_a_training_that_ended_goes_on_where_it_was(interrupted: Job, tmp_path: Path, whole: dict[str, Any]) -> None:
    returned, told = train(again(interrupted, tmp_path))
    same(returned, whole)
    assert len(told.steps_resumed()) == 1
    assert told.steps_resumed()[0] >= 8


def test_it_goes_on_with_one_worker_past_a_damaged_checkpoint(interrupted: Job, tmp_path: Path, whole: dict[str, Any]) -> None:
    job = again(interrupted, tmp_path, workers=1)
    newest, before = sorted(Path(job.open_store().uri).glob("*.pt"), reverse=True)
    content = bytearray(newest.read_bytes())
    content[1000] ^= 8
    newest.write_bytes(content)
    # And Ray's own record, cut short, is not even looked at.
    record = tmp_path / "ray" / job.fingerprint / "checkpoint_manager_snapshot.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text('{"checkpoint_results": [')
    returned, told = train(job)
    same(returned, whole)
    assert told.steps_resumed() == [int(before.stem)]
    assert newest.name in told.warnings()
    assert "expected sha256" in told.warnings()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_full_disk_is_told_and_training_goes_on(data: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    storage = tmp_path / "small"
    storage.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(storage)], check=True)
    try:
        job = make_job(data, storage)
        ballast = storage / "ballast"

        def fill(_: dict[str, Any]) -> None:
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

        def empty(_: dict[str, Any]) -> None:
            ballast.unlink()

        # It pauses three times, so that the disk is full while a checkpoint falls due, and has room again before the last.
        told = Told(on={"epoch": fill, "warning": empty})
        returned, told = train(job, Fault("pause", 10, rank=0), told=told)
        same(returned, whole)
        assert "no checkpoint at step" in told.warnings()
        assert str(storage) in told.warnings()
        assert sorted(path.stem for path in Path(job.open_store().uri).glob("*.pt"))[-1] == f"{EPOCHS * STEPS:010d}"
    finally:
        subprocess.run(["umount", "-l", str(storage)], check=True)


def test_too_few_resources_end_in_a_message(data: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"did not start within 8 s \(the cluster has \d+ CPU"):
        train(make_job(data, tmp_path, workers=64, micro_batches=64), start_timeout_s=8.0)
    assert time.monotonic() - begun < 60
