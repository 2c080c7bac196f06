"""What the driver asks of the workers. It imports no torch, which the driver has no need of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.params import Checkpoint, Recipe, Train
from components.records.training import Network
from components.storage import BlobStore, open_store
from components.training.plan import Plan


@dataclass(frozen=True)
class Job:
    """One training. Paths are absolute, for workers change their directory; `storage` is a path or a URL.

    On a worker's node, `locate` says where that has a split, and `scratch` where it may keep what can be had again.
    `placement` and `accelerator` are Ray's `ScalingConfig`'s.
    """

    network: Network
    recipe: Recipe
    train_data: Path
    val_data: Path
    workers: int | tuple[int, int]
    cpus_per_worker: float
    device: str
    global_batch: int
    micro_batches: int
    seed: int
    precision: str
    fingerprint: str
    storage: str
    checkpoint: Checkpoint
    watchdog_s: float
    images: str
    locate: Callable[[Path], Path]
    scratch: Callable[[], Path]
    placement: str = "PACK"
    accelerator: str | None = None

    def open_store(self) -> BlobStore:
        """Where its checkpoints are."""
        return open_store(self.storage, "runs", self.fingerprint)


def make_job(wanted: Plan, settings: Train, seed: int, **where: Any) -> Job:
    """`where` has what depends on the cluster: `device`, `precision`, `storage`, `placement` and so on."""
    fewest, most = settings.workers
    return Job(
        network=wanted.network,
        recipe=wanted.recipe,
        train_data=wanted.data["training"].resolve(),
        val_data=wanted.data["validation"].resolve(),
        workers=fewest if fewest == most else (fewest, most),
        cpus_per_worker=settings.cpus_per_worker,
        global_batch=settings.batch_size(wanted.model),
        micro_batches=settings.micro_batches(wanted.model),
        seed=seed,
        fingerprint=wanted.fingerprint,
        checkpoint=settings.checkpoint,
        watchdog_s=settings.watchdog_s,
        images=settings.images,
        **where,
    )


def run(config: dict[str, Any]) -> dict[str, Any]:
    """`worker.run`, in a worker."""
    from components.orchestration import worker

    return worker.run(config)
