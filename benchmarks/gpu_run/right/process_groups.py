"""Trainings in process groups, whose ranks are child processes."""

from __future__ import annotations

import multiprocessing
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.gpu_run.parts import SMOKE_LIMIT_S
from benchmarks.gpu_run.right.setup import Setup
from benchmarks.gpu_run.right.trials import CPU, Trial
from components.errors import PeerLostError
from components.training import collectives

GROUPS = {"process group nccl": ("nccl", 1), "process group gloo": ("gloo", 2)}
"""Backend and number of ranks; several ranks share the GPU."""
GROUP_TIMEOUT_S = 40


@dataclass(frozen=True)
class Child:
    """A process that trains as one rank, and the end of its pipe."""

    process: multiprocessing.process.BaseProcess
    connection: Connection


def start_ranks(backend: str, world: int, trial: Trial, device: torch.device) -> list[Child]:
    """Start `world` processes, which form a group, try its collectives and train."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    children = []
    for rank in range(world):
        ours, theirs = context.Pipe()
        arguments = (theirs, backend, rank, world, port, trial, device)
        # The interpreter ends daemons when it exits, so that none is left behind.
        process = context.Process(target=_run_rank, args=arguments, daemon=True)
        process.start()
        theirs.close()
        children.append(Child(process, ours))
    return children


def _run_rank(
    connection: Connection,
    backend: str,
    rank: int,
    world: int,
    port: int,
    trial: Trial,
    device: torch.device,
) -> None:
    """Join the group and send a dictionary of results to the parent process."""
    torch.set_num_threads(1)
    values: dict[str, Any] = {}
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(
            backend,
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=SMOKE_LIMIT_S if device == CPU else GROUP_TIMEOUT_S),
        )
        values["collectives"] = try_collectives(rank, world, device)
        values["digest"] = trial.digest(trial.train(device, "bf16"))
    except Exception as error:  # noqa: BLE001 - the parent process records it
        values["error"] = f"{type(error).__name__}: {error}"[:500]
    connection.send(values)
    if dist.is_initialized():
        dist.destroy_process_group()


def try_collectives(rank: int, world: int, device: torch.device) -> dict[str, str]:
    """Return `right`, `wrong` or the error of each collective operation."""
    ranks = torch.arange(world, device=device, dtype=torch.float32)
    total = float(ranks.sum())

    def broadcast() -> bool:
        values = torch.full((3,), float(rank), device=device)
        dist.broadcast(values, 0)
        return values.tolist() == [0.0] * 3

    def all_reduce() -> bool:
        values = torch.full((3,), float(rank), device=device)
        dist.all_reduce(values)
        return values.tolist() == [total] * 3

    def all_to_all_single() -> bool:
        incoming = torch.empty(world, device=device)
        dist.all_to_all_single(incoming, torch.full((world,), float(rank), device=device))
        return torch.equal(incoming, ranks)

    def all_gather_into_tensor() -> bool:
        gathered = torch.empty(world, device=device)
        dist.all_gather_into_tensor(gathered, ranks[rank : rank + 1].clone())
        return torch.equal(gathered, ranks)

    def all_gather_object() -> bool:
        values: list[Any] = [None] * world
        dist.all_gather_object(values, f"rank {rank}")
        return values == [f"rank {r}" for r in range(world)]

    def kiln_broadcast_bytes() -> bool:
        data = bytes(range(100)) if rank == 0 else None
        return collectives.broadcast_bytes(data, device) == bytes(range(100))

    def kiln_gather_objects() -> bool:
        return collectives.gather_objects(rank) == list(range(world))

    found = {}
    for operation in (
        broadcast,
        all_reduce,
        all_to_all_single,
        all_gather_into_tensor,
        all_gather_object,
        kiln_broadcast_bytes,
        kiln_gather_objects,
    ):
        try:
            found[operation.__name__] = "right" if operation() else "wrong"
        except (RuntimeError, ValueError, TypeError, PeerLostError) as error:
            found[operation.__name__] = f"{type(error).__name__}: {error}"[:300]
    return found


class GroupCheck:
    """A training in a process group that must give the weights of one without a group.

    The children start at once and run beside the other checks.
    """

    def __init__(self, setup: Setup, name: str, backend: str, world: int) -> None:
        self.setup = setup
        self.name = name
        self.trial = setup.trial("resnet20", micro_batches=2, recipe={"ema_decay": 0.9})
        self.children = start_ranks(backend, world, self.trial, setup.device)

    def finish(self) -> None:
        """Wait for the children, and compare their weights with those of this process."""
        expected = self.trial.digest(self.trial.train(self.setup.device, "bf16"))
        limit_s = SMOKE_LIMIT_S if self.setup.smoke else GROUP_TIMEOUT_S
        deadline = time.monotonic() + limit_s
        for rank, child in enumerate(self.children):
            values = _receive(child, deadline)
            if "digest" in values:
                same = values.pop("digest") == expected
                all_right = set(values["collectives"].values()) == {"right"}
                values |= {"same_weights": same, "tolerance": 0, "ok": same and all_right}
            self.setup.results.add(self.name, rank=rank, world=len(self.children), **values)
        for child in self.children:
            child.process.terminate()


def _receive(child: Child, deadline: float) -> dict[str, Any]:
    """Return the results of a child, or the reason why there are none."""
    if not child.connection.poll(max(0.0, deadline - time.monotonic())):
        return {"error": "no answer in time"}
    try:
        values: dict[str, Any] = child.connection.recv()
    except EOFError:
        return {"error": "the process ended without an answer"}
    return values


def start_groups(setup: Setup) -> None:
    """Start the children of all groups."""
    for name, (backend, world) in GROUPS.items():
        if not (backend == "nccl" and setup.needs_cuda(name)):
            with setup.results.attempt(name):
                setup.groups[name] = GroupCheck(setup, name, backend, world)


def finish_groups(setup: Setup) -> None:
    """Collect what the children have found."""
    for name, group in setup.groups.items():
        with setup.results.attempt(name):
            group.finish()
