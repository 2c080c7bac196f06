"""Faults in the middle of a training: the same bytes in the end, or one clear error.

`README.md` in this folder has the table of faults.
"""

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
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from components.errors import UserError
from components.orchestration.checkpoints import Checkpoints, parse_checkpoint
from components.orchestration.job import TrainedModel, TrainingJob
from components.ray_session.session import session
from components.training.events import EpochFinished, TrainingWarning
from tests.integration.faults import (
    CGROUP,
    EPOCHS,
    STEPS_PER_EPOCH,
    EventLog,
    Fault,
    assert_same,
    make_job,
    train,
)
from tests.machine import scaled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    with session():
        yield


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """The result of a training without faults."""
    model, log = train(make_job(data, tmp_path_factory.mktemp("undisturbed")))
    assert [event.row.epoch for event in log.of(EpochFinished)] == [1, 2, 3]
    assert not log.resumed_steps()
    return model


@pytest.mark.root
@pytest.mark.skipif(not os.access(CGROUP, os.W_OK), reason="cannot make memory cgroups here")
def test_ranks_that_die_cost_a_few_steps_each(
    data: Path, tmp_path: Path, undisturbed: TrainedModel
) -> None:
    faults = [
        Fault("kill", 5, rank=1),
        # A checkpoint is due three steps after the last one, and at the end of an epoch.
        Fault("kill while writing", 11, rank=0),
        Fault("raise", 14, rank=1),
        Fault("memory", 22, rank=1),  # the kernel's out-of-memory killer
    ]
    model, log = train(make_job(data, tmp_path), *faults)
    for group in CGROUP.glob("kiln-test-*"):
        group.rmdir()
    assert_same(model, undisturbed)
    assert len(log.resumed_steps()) == 4
    # The writer works beside the loop: the newest state may not have reached the disk.
    for step, (low, high) in zip(
        log.resumed_steps(), [(0, 5), (3, 8), (8, 14), (16, 22)], strict=True
    ):
        assert low <= step <= high, log.resumed_steps()


def test_an_error_that_comes_again_ends_the_training(data: Path, tmp_path: Path) -> None:
    expected = r"the same way 2 times: RuntimeError: boom .*\(epoch 2, step 6 of 8\)"
    with pytest.raises(UserError, match=expected):
        train(make_job(data, tmp_path), Fault("raise", 13, rank=1, forever=True), max_failures=50)


def test_ranks_without_progress_are_restarted(
    data: Path, tmp_path: Path, undisturbed: TrainedModel
) -> None:
    """One rank is frozen; later all hang; then one leaves as if it had fewer batches."""
    faults = [Fault("freeze", 5, rank=1), Fault("hang", 13), Fault("leave", 21, rank=1)]
    # A worker that starts on a loaded machine may need longer than this for its first step, which
    # is one more restart.
    job = make_job(data, tmp_path, watchdog_s=scaled(30))
    model, log = train(job, *faults, max_failures=12)
    assert_same(model, undisturbed)
    assert len(log.resumed_steps()) >= 3
    pattern = r"rank \d made no step for \S+ s and was ended; its stacks: (\S+)"
    stacks = [Path(name).read_text() for name in re.findall(pattern, log.warnings())]
    hanging = ["in _cause" in text for text in stacks]
    waiting = ["ordered_sum" in text for text in stacks]
    assert any(hanging), "of a rank that hangs itself"
    assert any(w and not h for w, h in zip(waiting, hanging, strict=True)), "of one that waits"


def test_a_killed_controller_is_replaced(
    data: Path, tmp_path: Path, undisturbed: TrainedModel
) -> None:
    model, log = train(make_job(data, tmp_path), Fault("kill the controller", 13, rank=1))
    assert_same(model, undisturbed)
    assert log.resumed_steps()
    assert "controller died" in log.warnings()


def test_a_loss_that_is_not_a_number_saves_nothing(data: Path, tmp_path: Path) -> None:
    job = make_job(data, tmp_path)
    expected = r"epoch 2, step 6 of 8: the loss is nan \(rank 1: train/"
    with pytest.raises(UserError, match=expected) as error:
        train(job, Fault("not a number", 13, rank=1))
    assert "nothing of that step was saved" in str(error.value)
    checkpoints = Checkpoints(job.checkpoint_store(), job.fingerprint, 2)
    newest = checkpoints.read_newest(lambda warning: pytest.fail(warning.text))
    assert newest is not None
    assert parse_checkpoint(newest)["step"] == 11


@pytest.fixture(scope="module")
def interrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """A training that failed for good in its second epoch, with two checkpoints."""
    job = make_job(data, tmp_path_factory.mktemp("interrupted"))
    with pytest.raises(UserError, match="boom"):
        train(job, Fault("raise", 13, rank=1, forever=True), max_failures=0)
    return job


def copy_of(job: TrainingJob, storage: Path, **values: Any) -> TrainingJob:
    """Return the same training with a copy of its storage."""
    shutil.copytree(job.storage, storage, dirs_exist_ok=True)
    return dataclasses.replace(job, storage=str(storage), scratch=partial(Path, storage), **values)


def test_a_failed_training_is_resumed(
    interrupted: TrainingJob, tmp_path: Path, undisturbed: TrainedModel
) -> None:
    model, log = train(copy_of(interrupted, tmp_path))
    assert_same(model, undisturbed)
    assert len(log.resumed_steps()) == 1
    assert log.resumed_steps()[0] >= 8


def test_one_worker_resumes_past_a_damaged_checkpoint(
    interrupted: TrainingJob, tmp_path: Path, undisturbed: TrainedModel
) -> None:
    job = copy_of(interrupted, tmp_path, workers=1)
    newest, older = sorted(Path(job.checkpoint_store().uri).glob("*.pt"), reverse=True)
    content = bytearray(newest.read_bytes())
    content[1000] ^= 8
    newest.write_bytes(content)
    # Ray's own record, truncated, is not read.
    record = tmp_path / "ray" / job.fingerprint / "checkpoint_manager_snapshot.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text('{"checkpoint_results": [')
    model, log = train(job)
    assert_same(model, undisturbed)
    assert log.resumed_steps() == [int(older.stem)]
    assert newest.name in log.warnings()
    assert "expected sha256" in log.warnings()


@pytest.mark.root
def test_a_full_disk_is_reported_and_training_goes_on(
    data: Path, tmp_path: Path, undisturbed: TrainedModel
) -> None:
    storage = tmp_path / "small"
    storage.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(storage)]
    subprocess.run(mount, check=True)
    try:
        job = make_job(data, storage)
        ballast = storage / "ballast"

        def fill(_: EpochFinished) -> None:
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

        def empty(_: TrainingWarning) -> None:
            ballast.unlink()

        # The pauses leave time for the disk to be full while a checkpoint is due, and to have
        # room again before the last one.
        log = EventLog(on={EpochFinished: fill, TrainingWarning: empty})
        model, log = train(job, Fault("pause", 10, rank=0), log=log)
        assert_same(model, undisturbed)
        assert "no checkpoint at step" in log.warnings()
        assert str(storage) in log.warnings()
        steps = sorted(path.stem for path in Path(job.checkpoint_store().uri).glob("*.pt"))
        assert steps[-1] == f"{EPOCHS * STEPS_PER_EPOCH:010d}"
    finally:
        subprocess.run(["umount", "-l", str(storage)], check=True)


def test_too_few_resources_end_in_a_message_that_names_their_holder(
    data: Path, tmp_path: Path
) -> None:
    holder = placement_group([{"CPU": 1}])
    ray.get(holder.ready())
    started = time.monotonic()
    expected = r"did not start within 8 s \(the cluster has \d+ CPU .*; held: 1 CPU by a training"
    try:
        with pytest.raises(UserError, match=expected):
            train(make_job(data, tmp_path, workers=64, micro_batches=64), start_timeout_s=8.0)
    finally:
        remove_placement_group(holder)
    assert time.monotonic() - started < 60
