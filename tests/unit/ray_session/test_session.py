"""What fits where, decided before anything is started."""

from __future__ import annotations

import time

import joblib
import pytest

from components.errors import UserError
from components.ray_session.addresses import forwarded_addresses
from components.ray_session.session import Node, Request, _fitting, _refuse_misfit, check_local, session


def test_workers_are_counted_node_by_node_and_not_in_total() -> None:
    nodes = [Node("a", 3, 0), Node("b", 3, 0)]
    assert _fitting(Request(2, cpus=2), nodes) == 2
    assert _fitting(Request(1, cpus=6), nodes) == 0
    assert _fitting(Request(1, cpus=0.1), [Node("a", 1, 0)]) == 10
    assert _fitting(Request(1, cpus=1, gpus=1), [Node("a", 8, 2), Node("b", 1, 4)]) == 3
    assert _fitting(Request(1, cpus=1, gpus=0.5), [Node("a", 8, 2)]) == 4


def test_a_misfit_says_what_each_node_could_take() -> None:
    with pytest.raises(UserError) as caught:
        _refuse_misfit(Request(5, cpus=2, gpus=1), [Node("node a", 8, 2, frozenset({"T4"})), Node("node b", 4, 0)])
    message = str(caught.value)
    assert "num_workers is 5 with 2 CPU and 1 GPU each, but only 2 can be placed" in message
    assert "node a has 8 CPU and 2 GPU (T4), room for 2; node b has 4 CPU and 0 GPU, room for 0" in message


def test_the_sites_placement_and_kind_of_gpu_count(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [Node("a", 8, 4, frozenset({"A100"})), Node("b", 8, 2, frozenset({"T4"})), Node("c", 8, 0)]
    expected = {"pack": 6, "spread": 6, "strict_pack": 4, "strict_spread": 2}
    for placement, fits in expected.items():
        monkeypatch.setenv("KILN_PLACEMENT", placement)
        assert _fitting(Request(1, cpus=1, gpus=1), nodes) == fits
    with pytest.raises(UserError, match=r"only 2 can be placed with KILN_PLACEMENT=strict_spread"):
        _refuse_misfit(Request(3, cpus=1, gpus=1), nodes)
    monkeypatch.setenv("KILN_PLACEMENT", "pack")
    monkeypatch.setenv("KILN_ACCELERATOR", "A100")
    assert _fitting(Request(1, cpus=1, gpus=1), nodes) == 4
    assert _fitting(Request(1, cpus=1), nodes) == 24
    monkeypatch.setenv("KILN_PLACEMENT", "everywhere")
    with pytest.raises(UserError, match="known: pack, spread, strict_pack, strict_spread"):
        _fitting(Request(1, cpus=1), nodes)


def test_addresses_travel_and_secrets_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("KILN_STORAGE", "/shared/kiln")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    assert forwarded_addresses() == {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "KILN_STORAGE": "/shared/kiln"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:hidden@mlflow:5000")
    assert "MLFLOW_TRACKING_URI" not in forwarded_addresses()


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


def test_of_a_servers_traceback_only_the_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**_: object) -> None:
        raise RuntimeError(
            "Initialization failure from server:\nTraceback (most recent call last):\n"
            '  File "proxier.py", line 772, in Datapath\n    raise Error(\nRuntimeError: Starting failed. See head.err.\n\n'
        )

    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError) as caught, session():
        pass
    told = "Initialization failure from server: RuntimeError: Starting failed. See head.err."
    assert str(caught.value) == f"Ray at RAY_ADDRESS=ray://head:10001 cannot be used: {told}"
