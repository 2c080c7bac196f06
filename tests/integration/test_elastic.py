"""Nodes come, are about to be taken away, freeze and go while a training runs: a real cluster of several raylets."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from components.params import Checkpoint
from components.ray_session import session
from tests.integration.faults import Fault, Told, make_job, same, train

_PREEMPTION = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without room for workers, and a node for one."""
    # Soon, but not so soon that a busy machine's own head counts as dead.
    quick = {"health_check_initial_delay_ms": 2000, "health_check_period_ms": 500, "health_check_timeout_ms": 2500,
             "health_check_failure_threshold": 3}  # fmt: skip
    # How often Ray asks for notices, and how long it waits for workers on a node that has just gone.
    os.environ |= session._QUIET | {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}
    # As in a session of ours: half of Ray reads how to authenticate once for a process, which may have had a session before.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def whole(cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one worker makes of the two micro-batches, undisturbed."""
    del cluster
    return train(make_job(data, tmp_path_factory.mktemp("whole"), workers=1))[0]


def test_workers_come_and_go_and_the_bytes_are_the_same(
    cluster: Cluster, data: Path, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.orchestration.trainer._MONITOR_S", 2.0)
    nodes: list[Any] = []
    workers: list[int] = []

    def grow(event: dict[str, Any]) -> None:
        workers.append(event["workers"])
        nodes.append(cluster.add_node(num_cpus=1))
        told.on["started"] = grown

    def grown(event: dict[str, Any]) -> None:
        workers.append(event["workers"])
        told.on["step"] = announce
        told.on["started"] = shrunk

    def announce(_: dict[str, Any]) -> None:
        client = GcsClient(address=cluster.address)
        node = nodes[0].node_id
        assert client.drain_node(node, _PREEMPTION, "a spot node is taken away", int((time.time() + 8) * 1000))[0]

    def shrunk(event: dict[str, Any]) -> None:
        workers.append(event["workers"])
        (tmp_path / "go").touch()

    def leave(_: dict[str, Any]) -> None:
        cluster.remove_node(nodes.pop(), allow_graceful=False)

    told = Told(on={"started": grow, "warning": leave})
    job = make_job(data, tmp_path, workers=(1, 2), checkpoint=Checkpoint(every_seconds=None, every_steps=None))
    returned, _ = train(job, Fault("slow", 1, rank=0), told=told)
    assert workers == [1, 2, 1]
    same(returned, whole)
    saved = int(told.warnings().split("after step ")[1].split()[0])
    assert told.steps_resumed()[-1] >= saved, "what the notice saved is where it went on"
    assert saved % 8, "in the middle of an epoch"


def test_a_frozen_raylet_counts_as_dead(
    cluster: Cluster, data: Path, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.orchestration.trainer._MONITOR_S", 2.0)
    node = cluster.add_node(num_cpus=1)
    raylet = next(p.process.pid for kind, ps in node.all_processes.items() if kind == "raylet" for p in ps)

    workers: list[int] = []

    def started(event: dict[str, Any]) -> None:
        workers.append(event["workers"])
        told.on["started"] = started
        if event["workers"] == 2:
            told.on["step"] = lambda _: os.kill(raylet, signal.SIGSTOP)
        elif 2 in workers:
            (tmp_path / "go").touch()

    told = Told(on={"started": started})
    try:
        job = make_job(data, tmp_path, workers=(1, 2), watchdog_s=30, checkpoint=Checkpoint(every_seconds=None, every_steps=1))
        returned, _ = train(job, Fault("slow", 2, rank=0), told=told)
    finally:
        os.kill(raylet, signal.SIGCONT)
        cluster.remove_node(node, allow_graceful=False)
    same(returned, whole)
    assert workers[-2:] == [2, 1]
