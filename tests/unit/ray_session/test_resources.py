"""Placement of workers on nodes, computed before anything is started."""

from __future__ import annotations

import sys
import time

import joblib
import pytest

from components.errors import UserError
from components.ray_session import resources
from components.ray_session.resources import (
    NodeCapacity,
    WorkerRequest,
    _check_fit,
    _placeable_workers,
    check_local_capacity,
    choose_workers,
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


@pytest.mark.parametrize(
    ("cores", "micro_batches", "workers"),
    [
        (1, 8, 1),
        (2, 8, 2),
        (3, 8, 3),
        (4, 8, 4),
        (5, 8, 4),
        (7, 8, 4),
        (8, 8, 8),
        (64, 8, 8),
        (4, 1, 1),
        (4, 6, 3),
        (0, 8, 1),
    ],
)
def test_automatic_workers_are_as_few_as_finish_a_batch_soonest(
    cores: int, micro_batches: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_nodes", lambda: [NodeCapacity("a", cores, 0)])
    assert choose_workers(WorkerRequest(1, cpus=1), "cpu", micro_batches) == workers


def test_automatic_workers_count_devices_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_nodes", lambda: [NodeCapacity("a", 64, 2)])
    assert choose_workers(WorkerRequest(1, cpus=1), "gpu", 8) == 2
    assert choose_workers(WorkerRequest(1, cpus=2), "cpu", 16) == 16


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


def test_gpu_that_is_missing_is_reported_without_starting_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resources, "_count_local_gpus", lambda: 0)
    request = WorkerRequest(1, cpus=1)
    with pytest.raises(UserError, match=r"device is gpu, but torch finds no GPU .*device to auto"):
        check_local_capacity(request, "gpu")
    for device in ("auto", "cpu"):
        check_local_capacity(request, device)
        with pytest.raises(UserError, match=r"precision is fp16, which needs a GPU"):
            check_local_capacity(request, device, "fp16")


def test_gpus_of_this_machine_limit_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)
    monkeypatch.setattr(resources, "_count_local_gpus", lambda: 2)
    check_local_capacity(WorkerRequest(2, cpus=1), "gpu", "fp16")
    check_local_capacity(WorkerRequest(3, cpus=1), "auto", "fp16")
    with pytest.raises(UserError, match=r"only 2 can be placed .* 2 GPU.* set device to auto"):
        check_local_capacity(WorkerRequest(3, cpus=1), "gpu")


def test_this_machine_does_not_limit_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    check_local_capacity(WorkerRequest(10_000, cpus=1), "gpu", "fp16")
