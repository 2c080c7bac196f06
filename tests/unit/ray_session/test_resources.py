"""Placement of workers on nodes, computed before anything is started."""

from __future__ import annotations

import sys
import time

import joblib
import pytest

from components.errors import UserError
from components.ray_session.resources import (
    NodeCapacity,
    WorkerRequest,
    _check_fit,
    _placeable_workers,
    check_local_capacity,
)


@pytest.mark.parametrize(
    ("request_", "nodes", "placeable"),
    [
        (WorkerRequest(2, cpus=2), [NodeCapacity("a", 3, 0), NodeCapacity("b", 3, 0)], 2),
        (WorkerRequest(1, cpus=6), [NodeCapacity("a", 3, 0), NodeCapacity("b", 3, 0)], 0),
        (WorkerRequest(1, cpus=0.1), [NodeCapacity("a", 1, 0)], 10),
        (WorkerRequest(1, cpus=1, gpus=1), [NodeCapacity("a", 8, 2), NodeCapacity("b", 1, 4)], 3),
        (WorkerRequest(1, cpus=1, gpus=0.5), [NodeCapacity("a", 8, 2)], 4),
    ],
    ids=["two nodes", "larger than a node", "share of a core", "gpus and cores", "share of a gpu"],
)
def test_workers_are_placed_on_single_nodes(
    request_: WorkerRequest, nodes: list[NodeCapacity], placeable: int
) -> None:
    assert _placeable_workers(request_, nodes) == placeable


def test_error_lists_the_room_on_each_node() -> None:
    nodes = [NodeCapacity("node a", 8, 2, frozenset({"T4"})), NodeCapacity("node b", 4, 0)]
    with pytest.raises(UserError) as caught:
        _check_fit(WorkerRequest(5, cpus=2, gpus=1), nodes)
    message = str(caught.value)
    assert "num_workers is 5 with 2 CPU and 1 GPU each, but only 2 can be placed" in message
    assert "node a has 8 CPU and 2 GPU (T4), room for 2;" in message
    assert "node b has 4 CPU and 0 GPU, room for 0" in message


NODES = [
    NodeCapacity("a", 8, 4, frozenset({"A100"})),
    NodeCapacity("b", 8, 2, frozenset({"T4"})),
    NodeCapacity("c", 8, 0),
]


@pytest.mark.parametrize(
    ("placement", "placeable"),
    [("pack", 6), ("spread", 6), ("strict_pack", 4), ("strict_spread", 2)],
)
def test_placement_strategy_limits_the_workers(
    placement: str, placeable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_PLACEMENT", placement)
    assert _placeable_workers(WorkerRequest(1, cpus=1, gpus=1), NODES) == placeable


def test_error_names_a_strict_placement_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_PLACEMENT", "strict_spread")
    with pytest.raises(UserError, match=r"only 2 can be placed with KILN_PLACEMENT=strict_spread"):
        _check_fit(WorkerRequest(3, cpus=1, gpus=1), NODES)


def test_unknown_placement_strategy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_PLACEMENT", "everywhere")
    with pytest.raises(UserError, match="known: pack, spread, strict_pack, strict_spread"):
        _placeable_workers(WorkerRequest(1, cpus=1), NODES)


def test_accelerator_limits_gpu_workers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_ACCELERATOR", "A100")
    assert _placeable_workers(WorkerRequest(1, cpus=1, gpus=1), NODES) == 4
    assert _placeable_workers(WorkerRequest(1, cpus=1), NODES) == 24


def test_this_machine_is_checked_without_starting_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cores = joblib.cpu_count()
    check_local_capacity(WorkerRequest(cores, cpus=1))
    start = time.monotonic()
    with pytest.raises(UserError, match=f"only {cores} can be placed"):
        check_local_capacity(WorkerRequest(cores + 1, cpus=1))
    assert time.monotonic() - start < 1
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized()


def test_this_machine_does_not_limit_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    check_local_capacity(WorkerRequest(10_000, cpus=1))
