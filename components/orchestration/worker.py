"""What each Ray Train worker runs: this process's part of one model's training."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train.v2._internal.execution.context import get_train_context

from components.data.loading.image_stores import Pool, open_pool
from components.errors import PeerLostError, UserError
from components.models import weights
from components.orchestration.checkpoints import Checkpoints, Writer
from components.orchestration.event_channel import Line
from components.orchestration.job import Job
from components.orchestration.watchdog import Watchdog
from components.training.callback import ALONE, Surroundings
from components.training.collectives import gather, share_bytes
from components.training.loop import Outcome, Run, train


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Entry point of every rank. Rank 0's return value reaches the driver: weights as safetensors bytes, and the rest.

    A mistake of the user's that shows only here is returned, not raised: starting the group again would not mend it. So is
    an error that already ended an earlier group at the same step.
    """
    job: Job = config["job"]
    line = Line(config["mailbox"])
    cause = line.mailbox.hopeless()
    if cause:
        return {"refused": cause}
    context = ray.train.get_context()
    rank = context.get_world_rank()
    torch.set_num_threads(max(1, int(job.cpus_per_worker)))
    device = ray.train.torch.get_device() if job.device == "gpu" else torch.device("cpu")
    stacks = job.scratch() / "stacks" / f"{job.fingerprint[:12]}-rank{rank}.txt"
    line.tell_stacks(stacks, rank, job.watchdog_s)
    watchdog = Watchdog(job.watchdog_s, stacks)
    try:
        return _train(job, line, rank, context.get_world_size(), device, watchdog.alive)
    except UserError as error:
        return {"refused": str(error)}
    except PeerLostError:
        raise
    except Exception as error:
        line.failed(error)
        raise
    finally:
        watchdog.rest()


def _train(job: Job, line: Line, rank: int, world: int, device: torch.device, alive: Callable[[], None]) -> dict[str, Any]:
    emit = line.emit if rank == 0 else ALONE.emit
    checkpoints = Checkpoints(job.open_store(), job.fingerprint, job.checkpoint.keep)
    emit({"kind": "started", "workers": world})
    # Unpacking a large set may take this node, or another one, longer than any step: the watchdog begins afterwards.
    train_images, val_images = _open(job, device, line.heartbeat if rank == 0 else ALONE.alive)
    alive()
    saved = share_bytes(checkpoints.newest(emit) if rank == 0 else None, device)
    run = Run(
        network=job.network,
        train=train_images,
        val=val_images,
        recipe=job.recipe,
        global_batch=job.global_batch,
        micro_batches=job.micro_batches,
        seed=job.seed,
        device=device,
        around=_lead(job, line, checkpoints, alive) if rank == 0 else Surroundings(alive=alive, leaving=_leaving),
    )
    outcome = train(run, precision=job.precision, resume=None if saved is None else checkpoints.read(saved))
    return _report(job, outcome) if rank == 0 else {}


def _leaving() -> bool:
    """Whether Ray knows that a node of this group is about to be taken away.

    The public `ray.train.get_preemption_info` is a barrier through an actor, too slow for every step. What one rank knows
    reaches the others with the next step's sums instead.
    """
    return get_train_context().preemption_context.preemption_info is not None


def _lead(job: Job, line: Line, checkpoints: Checkpoints, alive: Callable[[], None]) -> Surroundings:
    """Rank 0 speaks for all: state is the same on every rank."""
    writer = Writer(checkpoints, line.emit)
    last_time, last_step = time.monotonic(), 0

    def save(state: dict[str, Any], wait: bool) -> None:
        nonlocal last_time, last_step
        last_time, last_step = time.monotonic(), state["step"]
        writer.save(state, wait)

    def due(step: int) -> bool:
        seconds, steps = job.checkpoint.every_seconds, job.checkpoint.every_steps
        return bool((seconds and time.monotonic() - last_time >= seconds) or (steps and step - last_step >= steps))

    def progress() -> None:
        alive()
        line.heartbeat()

    return Surroundings(emit=line.emit, alive=progress, save=save, due=due, leaving=_leaving, stop=line.mailbox.stop_asked)


def _open(job: Job, device: torch.device, alive: Callable[[], None]) -> tuple[Pool, Pool]:
    """Both splits, on every rank; a rank that cannot read them ends all of them, with its reason."""
    error, splits = None, []
    try:
        cache, sharers = job.scratch() / "images", ray.train.get_context().get_local_world_size()
        paths = [job.locate(path) for path in (job.train_data, job.val_data)]
        splits = [open_pool(path, job.images, cache, device, sharers, alive) for path in paths]
    except (UserError, OSError) as caught:
        error = str(caught)
    errors = [f"rank {rank}: {text}" for rank, text in enumerate(gather(error)) if text]
    if errors:
        raise UserError("; ".join(errors))
    return splits[0], splits[1]


def _report(job: Job, outcome: Outcome) -> dict[str, Any]:
    if outcome.stopped is not None:
        return {"stopped": outcome.stopped}
    return {
        "weights": weights.serialize(job.network, outcome.state),
        "history": outcome.history,
        "best": outcome.best,
        "precision": outcome.precision,
        "parameters": outcome.parameters,
    }
