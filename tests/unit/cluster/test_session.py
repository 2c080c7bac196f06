"""What fits where, decided before anything is started."""

from __future__ import annotations

import time

import joblib
import pytest

from components.cluster.session import Request, _fitting, _refuse_misfit, check_local
from components.errors import UserError


def test_workers_are_counted_node_by_node_and_not_in_total() -> None:
    nodes = {"a": (3, 0), "b": (3, 0)}
    assert _fitting(Request(2, cpus=2), nodes) == 2
    assert _fitting(Request(1, cpus=6), nodes) == 0
    assert _fitting(Request(1, cpus=0.1), {"a": (1, 0)}) == 10
    assert _fitting(Request(1, cpus=1, gpus=1), {"a": (8, 2), "b": (1, 4)}) == 3


def test_a_misfit_says_what_each_node_could_take() -> None:
    with pytest.raises(UserError) as caught:
        _refuse_misfit(Request(5, cpus=2, gpus=1), {"node a": (8, 2), "node b": (4, 0)})
    message = str(caught.value)
    assert "num_workers is 5 with 2 CPU and 1 GPU each, but only 2 can be placed" in message
    assert "node a has 8 CPU and 2 GPU, room for 2; node b has 4 CPU and 0 GPU, room for 0" in message


def test_this_machine_is_checked_without_starting_ray() -> None:
    cores = joblib.cpu_count()
    check_local(Request(cores, cpus=1))
    begun = time.monotonic()
    with pytest.raises(UserError, match=f"only {cores} can be placed"):
        check_local(Request(cores + 1, cpus=1))
    assert time.monotonic() - begun < 1


def test_a_named_cluster_is_not_judged_by_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    check_local(Request(10_000, cpus=1))
