"""One Ray session for a stage: the cluster that `RAY_ADDRESS` names, else this machine's cores."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import joblib
import psutil

from components.errors import UserError

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Nobody scrapes a session that lives for one stage; each of these is another process to start.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    # How late the end of training is noticed.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}


@dataclass(frozen=True)
class Request:
    """What a stage wants: `workers` processes of `cpus` cores and `gpus` devices each."""

    workers: int
    cpus: float
    gpus: int = 0


def check_local(request: Request) -> None:
    """Refuses at once what this machine cannot hold, where no cluster is named: before anything is started.

    Raises:
        UserError: says how many workers would fit.
    """
    if not os.environ.get("RAY_ADDRESS"):
        _refuse_misfit(request, {"this machine": (joblib.cpu_count(), None)})


@contextmanager
def session() -> Iterator[str]:
    """Connects, yields what to, and disconnects (a local Ray ends with it).

    Raises:
        UserError: the cluster that `RAY_ADDRESS` names does not answer.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS")
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            # A token of this session alone, in memory: Ray would otherwise write one under the home directory.
            if "RAY_AUTH_TOKEN_PATH" not in os.environ:
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            ray.init(
                address="local",
                num_cpus=joblib.cpu_count(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"Ray at RAY_ADDRESS={address or 'local'} cannot be used: {error}") from error
    try:
        with nullcontext() if address else _reaper():
            yield address or f"this machine ({joblib.cpu_count()} cores)"
    finally:
        ray.shutdown()


@contextmanager
def _reaper() -> Iterator[None]:
    """Sees to it that nothing of an embedded Ray outlives this process for long, even if it is killed.

    Ray's own processes notice by themselves, but its agents spend another minute on telling a head that is gone, too.
    """
    import ray

    raylet = ray._private.worker._global_node.all_processes["raylet"][0].process.pid
    agents = [str(child.pid) for child in psutil.Process(raylet).children()]
    # `read` ends when the other end of the pipe does, which is here. By then a number may belong to somebody else.
    script = 'read _; sleep 3; for p; do case "$(ps -o args= -p $p)" in ray::*) kill -9 $p;; esac; done'
    with subprocess.Popen(["sh", "-c", script, "reaper", *agents], stdin=subprocess.PIPE, start_new_session=True) as reaper:
        try:
            yield
        finally:
            reaper.kill()


def device_for(request: Request, device: str) -> str:
    """`cpu` or `gpu` for the connected cluster, given `auto`, `cpu` or `gpu`; checks that the workers fit, node by node.

    Raises:
        UserError: they do not; says what each node could take. Nothing waits for resources that may never come.
    """
    import ray

    nodes = {
        f"node {n['NodeManagerHostname']}": (int(n["Resources"].get("CPU", 0)), int(n["Resources"].get("GPU", 0)))
        for n in ray.nodes()
        if n["Alive"]
    }
    with_gpu = Request(request.workers, request.cpus, gpus=1)
    if device == "gpu" or (device == "auto" and _fitting(with_gpu, nodes) >= request.workers):
        _refuse_misfit(with_gpu, nodes)
        return "gpu"
    _refuse_misfit(request, nodes)
    return "cpu"


def _fitting(request: Request, nodes: Mapping[str, tuple[int, int | None]]) -> int:
    return sum(_on_node(request, *node) for node in nodes.values())


def _on_node(request: Request, cpus: int, gpus: int | None) -> int:
    fits = int(cpus / request.cpus + 1e-9)
    return fits if not request.gpus or gpus is None else min(fits, gpus // request.gpus)


def _refuse_misfit(request: Request, nodes: Mapping[str, tuple[int, int | None]]) -> None:
    fits = _fitting(request, nodes)
    if fits < request.workers:
        each = f"{request.cpus:g} CPU" + (f" and {request.gpus} GPU" if request.gpus else "")
        where = "; ".join(
            f"{name} has {cpus} CPU{'' if gpus is None else f' and {gpus} GPU'}, room for {_on_node(request, cpus, gpus)}"
            for name, (cpus, gpus) in nodes.items()
        )
        raise UserError(
            f"num_workers is {request.workers} with {each} each, but only {fits} can be placed ({where}); "
            "lower num_workers or cpus_per_worker in params.yaml, or set RAY_ADDRESS to a larger cluster"
        )
