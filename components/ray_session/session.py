"""One Ray session for a stage: the cluster that `RAY_ADDRESS` names, else this machine's cores."""

from __future__ import annotations

import logging
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import joblib

from components.errors import UserError
from components.ray_session import head
from components.ray_session.addresses import forwarded_addresses
from components.ray_session.code_package import pack, write_archive

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Nobody scrapes a session that lives for one stage; each of these is another process to start.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # A thread that still calls Ray when the session has ended must not begin another one.
    "RAY_ENABLE_AUTO_CONNECT": "0",
}

_PLACEMENTS = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_ACCELERATOR = "accelerator_type:"
_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True)
class Request:
    """What a stage wants: `workers` processes of `cpus` cores and `gpus` devices each (a share of one below 1).

    The site's environment says on which of a cluster's nodes: KILN_ACCELERATOR names a kind of GPU as Ray does (`A100`),
    KILN_PLACEMENT one of Ray's strategies (`pack` by default).
    """

    workers: int
    cpus: float
    gpus: float = 0

    @property
    def threads(self) -> int:
        """Of each process."""
        return max(1, int(self.cpus))

    @property
    def accelerator(self) -> str | None:
        return os.environ.get("KILN_ACCELERATOR") or None

    @property
    def placement(self) -> str:
        found = os.environ.get("KILN_PLACEMENT") or "pack"
        if found.upper() not in _PLACEMENTS:
            raise UserError(f"KILN_PLACEMENT={found}; known: {', '.join(_PLACEMENTS).lower()}")
        return found.upper()


@dataclass(frozen=True)
class Node:
    """What a node has in all, whether or not it is in use; `gpus` is None where nobody has asked."""

    name: str
    cpus: float
    gpus: float | None = None
    accelerators: frozenset[str] = frozenset()

    def room(self, request: Request) -> int:
        """How many of the request's workers fit on it."""
        fits = int(self.cpus / request.cpus + 1e-9)
        if not request.gpus or self.gpus is None:
            return fits
        if request.accelerator and request.accelerator not in self.accelerators:
            return 0
        return min(fits, int(self.gpus / request.gpus + 1e-9))

    def described(self, request: Request) -> str:
        kinds = f" ({', '.join(sorted(self.accelerators))})" if self.accelerators else ""
        gpus = "" if self.gpus is None else f" and {self.gpus:g} GPU{kinds}"
        return f"{self.name} has {self.cpus:g} CPU{gpus}, room for {self.room(request)}"


def check_local(request: Request) -> None:
    """Refuses at once what this machine cannot hold, where no cluster is named: before anything is started.

    Raises:
        UserError: says how many workers would fit.
    """
    if not os.environ.get("RAY_ADDRESS"):
        _refuse_misfit(request, [Node("this machine", joblib.cpu_count())])


@contextmanager
def session(workers: int | None = None) -> Iterator[str]:
    """Connects, yields what to, and disconnects (a local Ray ends with it). Workers of a cluster get this code.

    On a Ray of our own `workers` processes start beforehand: one per core, or fewer if no more will have work.

    Raises:
        UserError: the cluster that `RAY_ADDRESS` names does not answer.
    """
    with starting(workers) as connect:
        yield connect()


@contextmanager
def starting(workers: int | None = None, threads: int = 1, modules: Iterable[str] = ()) -> Iterator[Callable[[], str]]:
    """A session for whoever has something else to do while Ray starts; what is yielded connects as `session` does.

    On a Ray of our own its workers, of as many `threads` each, import `modules` meanwhile.
    """
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    named = os.environ.get("RAY_ADDRESS")
    with nullcontext(lambda: os.environ["RAY_ADDRESS"]) if named else _local(workers, threads, modules) as found:
        try:
            yield partial(_connect, found)
        finally:
            if "ray" in sys.modules:
                sys.modules["ray"].shutdown()


def _connect(found: Callable[[], str]) -> str:
    import ray  # reads some of what is set above
    from ray._raylet import Config  # type: ignore[attr-defined]

    Config.initialize("")  # the rest, if this process had Ray already
    named = os.environ.get("RAY_ADDRESS")
    try:
        with tempfile.TemporaryDirectory() as folder:
            ray.init(
                address=found(),
                runtime_env=_runtime_env(Path(folder)) if named else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        outside = named and not named.startswith("ray://")
        advice = "; from a machine that is no node of the cluster: RAY_ADDRESS=ray://HEAD:10001" if outside else ""
        # Ray Client hands on the server's traceback, whose end says what is wrong.
        told = re.sub(r"\s*Traceback \(most recent call last\):.*\n(?=\S)", " ", str(error), flags=re.DOTALL).strip()
        raise UserError(f"Ray at RAY_ADDRESS={named or 'local'} cannot be used: {told}{advice}") from error
    return named or f"this machine ({joblib.cpu_count()} cores)"


def _local(workers: int | None, threads: int, modules: Iterable[str]) -> AbstractContextManager[Callable[[], str]]:
    # A token of this session alone, in memory: Ray would otherwise write one under the home directory.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Nobody reads what all of Ray's processes count and send each other, for half a per cent of a core.
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    cores = joblib.cpu_count()
    return head.started(cores, cores if workers is None else min(workers, cores), threads, modules)


def _runtime_env(folder: Path) -> dict[str, Any]:
    """What a cluster's workers need of this process: its code (a job's workers have it already), and addresses."""
    env: dict[str, Any] = {"env_vars": forwarded_addresses()}
    if _IN_A_JOB not in os.environ:
        env["working_dir"] = str(write_archive(pack(allow_dirty=True), folder))
    return env


def device_for(request: Request, device: str) -> str:
    """`cpu` or `gpu` for the connected cluster, given `auto`, `cpu` or `gpu`; checks that the workers fit, node by node.

    Raises:
        UserError: they do not; says what each node could take. Nothing waits for resources that may never come.
    """
    nodes = _nodes()
    with_gpu = replace(request, gpus=request.gpus or 1)
    if device == "gpu" or (device == "auto" and _fitting(with_gpu, nodes) >= request.workers):
        _refuse_misfit(with_gpu, nodes)
        return "gpu"
    _refuse_misfit(replace(request, gpus=0), nodes)
    return "cpu"


def _nodes() -> list[Node]:
    import ray

    return [
        Node(
            f"node {n['NodeManagerHostname']}",
            n["Resources"].get("CPU", 0),
            n["Resources"].get("GPU", 0),
            frozenset(key.removeprefix(_ACCELERATOR) for key in n["Resources"] if key.startswith(_ACCELERATOR)),
        )
        for n in ray.nodes()
        if n["Alive"]
    ]


def _fitting(request: Request, nodes: list[Node]) -> int:
    """How many workers can be placed at once, by the strategy."""
    rooms = [node.room(request) for node in nodes]
    if request.placement == "STRICT_PACK":
        return max(rooms, default=0)
    return sum(min(room, 1) for room in rooms) if request.placement == "STRICT_SPREAD" else sum(rooms)


def _refuse_misfit(request: Request, nodes: list[Node]) -> None:
    fits = _fitting(request, nodes)
    if fits < request.workers:
        kind = f" {request.accelerator}" if request.accelerator and request.gpus else ""
        each = f"{request.cpus:g} CPU" + (f" and {request.gpus:g} GPU{kind}" if request.gpus else "")
        how = "" if request.placement == "PACK" else f" with KILN_PLACEMENT={request.placement.lower()}"
        raise UserError(
            f"num_workers is {request.workers} with {each} each, but only {fits} can be placed{how} "
            f"({'; '.join(node.described(request) for node in nodes)}); "
            "lower num_workers or cpus_per_worker in params.yaml, or set RAY_ADDRESS to a larger cluster"
        )
