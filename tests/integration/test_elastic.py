"""Nodes come, are preempted, freeze and go while a training runs on several raylets."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from components.orchestration.events import WorkersStarted
from components.orchestration.job import TrainedModel
from components.params import Checkpoint
from components.ray_session import session
from components.training.events import StepProgress, TrainingWarning
from tests.integration.faults import (
    EventLog,
    Fault,
    assert_same,
    make_job,
    train,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without room for workers, and one node with a core."""
    # Short, but not so short that the head of a busy machine counts as dead.
    health_checks = {
        "health_check_initial_delay_ms": 2000,
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 2500,
        "health_check_failure_threshold": 3,
    }
    os.environ |= session.SETTINGS | {
        # A local session earlier in this process turns the watcher off for the whole process.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        # The wait for workers on a node that has just gone.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    }
    # Ray reads half of its authentication settings once for a process, which may have had a
    # session before.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "_system_config": health_checks, "include_dashboard": False},
    )
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(
    cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainedModel:
    """The result of one worker that computes both micro-batches."""
    del cluster
    return train(make_job(data, tmp_path_factory.mktemp("undisturbed"), workers=1))[0]


def announce_preemption(cluster: Cluster, node_id: str) -> None:
    """Tell Ray that a node will be taken away in 8 seconds, as an autoscaler does."""
    command = [
        *(str(Path(sys.executable).with_name("ray")), "drain-node"),
        *("--address", cluster.address, "--node-id", node_id),
        *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a spot node"),
        *("--deadline-remaining-seconds", "8"),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)


def test_workers_come_and_go_and_the_bytes_stay_the_same(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: TrainedModel
) -> None:
    nodes: list[Any] = []
    workers: list[int] = []

    def add_node(event: WorkersStarted) -> None:
        workers.append(event.workers)
        nodes.append(cluster.add_node(num_cpus=1))
        log.on[WorkersStarted] = after_growth

    def after_growth(event: WorkersStarted) -> None:
        workers.append(event.workers)
        log.on[StepProgress] = lambda _: announce_preemption(cluster, nodes[0].node_id)
        log.on[WorkersStarted] = after_loss

    def after_loss(event: WorkersStarted) -> None:
        workers.append(event.workers)
        (tmp_path / "go").touch()

    def remove_node(_: TrainingWarning) -> None:
        cluster.remove_node(nodes.pop(), allow_graceful=False)

    log = EventLog(on={WorkersStarted: add_node, TrainingWarning: remove_node})
    job = make_job(
        data, tmp_path, workers=(1, 2), checkpoint=Checkpoint(every_seconds=None, every_steps=None)
    )
    model, _ = train(job, Fault("slow", 1, rank=0), log=log, resize_interval_s=2.0)
    assert workers == [1, 2, 1]
    assert_same(model, undisturbed)
    saved_step = int(log.warnings().split("after step ")[1].split()[0])
    assert log.resumed_steps()[-1] >= saved_step, "resumed from what the notice saved"


def test_a_node_whose_raylet_freezes_counts_as_dead(
    cluster: Cluster, data: Path, tmp_path: Path, undisturbed: TrainedModel
) -> None:
    node = cluster.add_node(num_cpus=1)
    raylets = [p.process.pid for p in node.all_processes["raylet"]]
    workers: list[int] = []

    def on_start(event: WorkersStarted) -> None:
        workers.append(event.workers)
        log.on[WorkersStarted] = on_start
        if event.workers == 2:
            log.on[StepProgress] = lambda _: os.kill(raylets[0], signal.SIGSTOP)
        elif 2 in workers:
            (tmp_path / "go").touch()

    log = EventLog(on={WorkersStarted: on_start})
    try:
        job = make_job(
            data,
            tmp_path,
            workers=(1, 2),
            watchdog_s=30,
            checkpoint=Checkpoint(every_seconds=None, every_steps=1),
        )
        model, _ = train(job, Fault("slow", 2, rank=0), log=log, resize_interval_s=2.0)
    finally:
        os.kill(raylets[0], signal.SIGCONT)
        cluster.remove_node(node, allow_graceful=False)
    assert_same(model, undisturbed)
    assert workers[-2:] == [2, 1]
