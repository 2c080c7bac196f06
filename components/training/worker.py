"""What each Ray Train worker runs: this process's part of one model's training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.util.queue import Queue

from components.artifacts import Network
from components.data.shards import read_split
from components.errors import UserError
from components.models import weights
from components.params import Recipe
from components.training.loop import train


@dataclass(frozen=True)
class Job:
    """One training. Paths are absolute, for workers change their directory."""

    network: Network
    recipe: Recipe
    train_data: Path
    val_data: Path
    workers: int
    cpus_per_worker: float
    device: str
    global_batch: int
    seed: int
    precision: str


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Entry point of every rank. Rank 0's return value reaches the driver: weights as safetensors bytes, and the rest.

    A mistake of the user's that shows only here is returned, not raised: starting the group again would not mend it.
    """
    job: Job = config["job"]
    events: Queue = config["events"]
    torch.set_num_threads(max(1, int(job.cpus_per_worker)))
    device = ray.train.torch.get_device() if job.device == "gpu" else torch.device("cpu")
    try:
        train_images, _ = read_split(job.train_data)
        val_images, _ = read_split(job.val_data)
        outcome = train(
            job.network,
            train_images,
            val_images,
            job.recipe,
            global_batch=job.global_batch,
            seed=job.seed,
            device=device,
            precision=job.precision,
            emit=events.actor.put_nowait.remote,
        )
    except UserError as error:
        return {"refused": str(error)}
    if ray.train.get_context().get_world_rank() != 0:
        return {}
    return {
        "weights": weights.serialize(job.network, outcome.state),
        "history": outcome.history,
        "best": outcome.best,
        "precision": outcome.precision,
        "parameters": outcome.parameters,
    }
