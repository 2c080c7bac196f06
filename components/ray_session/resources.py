"""Resources: those that a stage's workers need, and those that the nodes have."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import joblib

from components.errors import UserError
from components.ray_session.nodes import living_nodes
from components.ray_session.session import is_cluster

_PLACEMENTS = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_ACCELERATOR_PREFIX = "accelerator_type:"


@dataclass(frozen=True)
class WorkerRequest:
    """`workers` processes, each with `cpus` cores and `gpus` devices (a share of one below 1).

    The site's environment decides on which nodes of a cluster they run: KILN_ACCELERATOR names
    a kind of GPU as Ray does (`A100`), KILN_PLACEMENT one of Ray's placement strategies (`pack`
    by default).
    """

    workers: int
    cpus: float
    gpus: float = 0

    @property
    def accelerator(self) -> str | None:
        """The kind of GPU that is asked for, or None for any."""
        return os.environ.get("KILN_ACCELERATOR") or None

    @property
    def placement(self) -> str:
        """Ray's name of the placement strategy.

        Raises:
            UserError: KILN_PLACEMENT names no strategy.
        """
        strategy = os.environ.get("KILN_PLACEMENT") or "pack"
        if strategy.upper() not in _PLACEMENTS:
            known = ", ".join(_PLACEMENTS).lower()
            raise UserError(f"KILN_PLACEMENT={strategy}; known: {known}")
        return strategy.upper()


@dataclass(frozen=True)
class NodeCapacity:
    """The total resources of a node, whether or not they are in use.

    `gpus` is None if no GPUs were requested.
    """

    name: str
    cpus: float
    gpus: float | None = None
    accelerators: frozenset[str] = frozenset()

    def fitting_workers(self, request: WorkerRequest) -> int:
        """Return how many of the request's workers fit on this node."""
        by_cpu = int(self.cpus / request.cpus + 1e-9)
        if not request.gpus or self.gpus is None:
            return by_cpu
        if request.accelerator and request.accelerator not in self.accelerators:
            return 0
        return min(by_cpu, int(self.gpus / request.gpus + 1e-9))

    def describe(self, request: WorkerRequest) -> str:
        """Return the node's resources and the room on it, for an error message."""
        kinds = f" ({', '.join(sorted(self.accelerators))})" if self.accelerators else ""
        gpus = "" if self.gpus is None else f" and {self.gpus:g} GPU{kinds}"
        room = self.fitting_workers(request)
        return f"{self.name} has {self.cpus:g} CPU{gpus}, room for {room}"


def check_local_capacity(
    request: WorkerRequest, device: str = "auto", precision: str = "auto"
) -> None:
    """Check that the workers fit on this machine, unless a cluster is used.

    Args:
        request: the smallest number of workers, and what each of them needs.
        device: `auto`, `cpu` or `gpu`.
        precision: the precision of params `train.precision`.

    Raises:
        UserError: they do not fit (the message has the number that fits), or there is no GPU and
            `device` or `precision` needs one.
    """
    if is_cluster():
        return
    cores = joblib.cpu_count()
    _check_fit(request, [NodeCapacity("this machine", cores)])
    if device == "gpu":
        gpus = _count_local_gpus()
        if not gpus:
            raise UserError(
                "train.device is gpu, but torch finds no GPU on this machine; set device to auto, "
                "which uses GPUs where there are enough, or RAY_ADDRESS to a cluster with GPUs"
            )
        _check_fit(_on_device(request, "gpu"), [NodeCapacity("this machine", cores, gpus)])
    elif precision == "fp16" and (device == "cpu" or not _count_local_gpus()):
        check_precision(precision, "cpu")


def check_precision(precision: str, device: str) -> None:
    """Check that a device, `cpu` or `gpu`, can train with a precision.

    Raises:
        UserError: it cannot.
    """
    if precision == "fp16" and device == "cpu":
        raise UserError(
            "train.precision is fp16, which needs a GPU; on a CPU use auto, fp32 or bf16"
        )


def _count_local_gpus() -> int:
    import torch  # takes seconds, and is not needed for the default parameters

    return torch.cuda.device_count()


def choose_device(request: WorkerRequest, device: str) -> str:
    """Return `cpu` or `gpu` for the connected cluster, given `auto`, `cpu` or `gpu`.

    Raises:
        UserError: the workers do not fit. The message lists the room on each node. Without this
            check, training could wait forever for resources.
    """
    nodes = _nodes()
    with_gpu = _on_device(request, "gpu")
    enough_gpus = _placeable_workers(with_gpu, nodes) >= request.workers
    if device == "gpu" or (device == "auto" and enough_gpus):
        _check_fit(with_gpu, nodes)
        return "gpu"
    _check_fit(_on_device(request, "cpu"), nodes)
    return "cpu"


def choose_workers(request: WorkerRequest, device: str, num_micro_batches: int) -> int:
    """Return the number of workers that finish a global batch soonest on the connected nodes.

    It is at most one per micro-batch and at least `request.workers`. No more workers are used than
    shorten a step: five workers take as long for eight micro-batches as four.

    Args:
        request: the smallest number of workers, and what each of them needs.
        device: `cpu` or `gpu`, as `choose_device` returned it.
        num_micro_batches: the number of micro-batches of a global batch.
    """
    room = _placeable_workers(_on_device(request, device), _nodes())
    rounds = math.ceil(num_micro_batches / max(1, min(room, num_micro_batches)))
    return max(request.workers, math.ceil(num_micro_batches / rounds))


def _on_device(request: WorkerRequest, device: str) -> WorkerRequest:
    """Return the request for `cpu`, without GPUs, or for `gpu`, with one per worker by default."""
    return replace(request, gpus=(request.gpus or 1) if device == "gpu" else 0)


def _nodes() -> list[NodeCapacity]:
    return [
        NodeCapacity(
            f"node {node['NodeManagerHostname']}",
            node["Resources"].get("CPU", 0),
            node["Resources"].get("GPU", 0),
            frozenset(
                key.removeprefix(_ACCELERATOR_PREFIX)
                for key in node["Resources"]
                if key.startswith(_ACCELERATOR_PREFIX)
            ),
        )
        for node in living_nodes()
    ]


def _placeable_workers(request: WorkerRequest, nodes: list[NodeCapacity]) -> int:
    """Return how many workers the placement strategy can place at once."""
    fitting = [node.fitting_workers(request) for node in nodes]
    match request.placement:
        case "STRICT_PACK":
            return max(fitting, default=0)
        case "STRICT_SPREAD":
            return sum(min(room, 1) for room in fitting)
        case _:
            return sum(fitting)


def _check_fit(request: WorkerRequest, nodes: list[NodeCapacity]) -> None:
    placeable = _placeable_workers(request, nodes)
    if placeable >= request.workers:
        return
    kind = f" {request.accelerator}" if request.accelerator and request.gpus else ""
    each = f"{request.cpus:g} CPU" + (f" and {request.gpus:g} GPU{kind}" if request.gpus else "")
    strategy = ""
    if request.placement != "PACK":
        strategy = f" with KILN_PLACEMENT={request.placement.lower()}"
    device = ", set device to auto" if request.gpus else ""
    raise UserError(
        f"num_workers is {request.workers} with {each} each, but only {placeable} can be "
        f"placed{strategy} ({'; '.join(node.describe(request) for node in nodes)}); "
        f"lower num_workers or cpus_per_worker in params.yaml{device}, or set RAY_ADDRESS to a "
        "larger cluster"
    )
