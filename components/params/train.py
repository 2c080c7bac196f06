"""Section `train`: the models, and the workers, checkpoints and restarts of a training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from components.params.base import Integer, Name, Number, Section
from components.params.recipe import Recipe

Reduction = Literal["ordered", "ddp"]

# Micro-batches of a global batch if neither their size nor a number of workers is given.
_MAX_DEFAULT_MICRO_BATCHES = 8
# Batch norm is noisy over fewer images.
_MIN_DEFAULT_MICRO_BATCH_SIZE = 16


class WorkerRange(Section):
    """Elastic number of workers. Training starts with as many as fit on the cluster, continues with
    fewer when some are lost, and adds workers when there is room again."""

    min: Annotated[Integer, Field(ge=1, le=4096)]
    """Smallest number of workers to train with."""
    max: Annotated[Integer, Field(ge=1, le=4096)] | None = None
    """Largest number of workers to train with; null is one per micro-batch."""

    @model_validator(mode="after")
    def _check_order(self) -> WorkerRange:
        if self.max is not None and self.min > self.max:
            raise ValueError(f"min is {self.min}, more than max ({self.max})")
        return self


def _to_range(value: Any) -> Any:
    if value == "auto":
        return {"min": 1, "max": None}
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return {"min": value, "max": value}
    if not isinstance(value, dict | WorkerRange):
        raise ValueError(
            f"found {value!r}; auto, a whole number from 1, or {{min: 1, max: 4}}, is needed"
        )
    return value


class Checkpoint(Section):
    """Checkpoints of the training state within an epoch. There is always one at the end of each
    epoch. All are deleted after a successful training."""

    every_seconds: Annotated[Number, Field(gt=0)] | None = 60
    """Seconds between two checkpoints; null does not save by time."""
    every_steps: Annotated[Integer, Field(ge=1)] | None = None
    """Steps between two checkpoints; null does not save by steps."""
    keep: Annotated[Integer, Field(ge=1, le=100)] = 2
    """Number of newest checkpoints that are kept. Each also holds the best epoch's weights."""


class Train(Section):
    """Section `train`."""

    num_workers: Annotated[WorkerRange, BeforeValidator(_to_range)] = WorkerRange(min=1)
    """Data-parallel processes: `auto`, one number, or a range such as `{min: 1, max: 4}` for as
    many as fit on the cluster at the moment. `auto` uses all cores or GPUs of this machine, up to
    one per micro-batch; on a cluster it is the range `{min: 1}`."""
    cpus_per_worker: Annotated[Number, Field(gt=0, le=512)] = 1
    """CPU cores, and so threads, of each worker. Below 1, several workers share a core and have one
    thread each."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto` is one GPU per worker (NCCL) where the cluster has enough of them, else the CPU
    (Gloo)."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bfloat16 where a short probe finds it clearly faster than fp32 and in agreement
    with it, else fp32. `fp16` scales the loss and needs a GPU."""
    global_batch_size: Annotated[Integer, Field(ge=1)] = 256
    """Images per optimiser step, over all workers. A given number of workers must divide it, unless
    the model has a `micro_batch_size`."""
    reduction: Reduction = "ordered"
    """Sum of the gradients over workers. `ordered` adds them in a fixed order: the weights do not
    depend on the number of workers. `ddp` sums them while the backward pass still runs, as torch's
    DistributedDataParallel does (arXiv:2006.15704), and in an order that the backend chooses: the
    last bits of the weights then depend on the workers. It is for several nodes with a slow
    network between them (docs/explanation/reproducibility.md has figures)."""
    max_failures: Annotated[Integer, Field(ge=0, le=100)] = 5
    """Number of times that the worker group is restarted after the loss of a worker. It continues
    from the newest checkpoint."""
    images: Literal["auto", "memory", "disk"] = "auto"
    """Storage of each worker's images during training: `memory` holds them decoded, `disk` keeps
    one file on the worker's node and reads the next batch while the current one is computed. `auto`
    is `memory` if the images take at most a quarter of the free memory."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpoints within an epoch."""
    watchdog_s: Annotated[Number, Field(ge=5)] = 300
    """Seconds without a step after which a worker logs its stack traces and exits, to be
    restarted."""
    start_timeout_s: Annotated[Number, Field(ge=5)] = 300
    """Longest time for the start or a restart of the worker group, in seconds, before training
    fails."""
    models: Annotated[dict[Name, Recipe], Field(min_length=1)]
    """Models to train: names and their recipes. Each is one stage `train@name`."""

    def global_batch_size_of(self, model: str) -> int:
        """Return the global batch size of one entry of `models`."""
        return self.models[model].global_batch_size or self.global_batch_size

    def num_micro_batches(self, model: str) -> int:
        """Return the number of micro-batches in a global batch of one entry of `models`."""
        batch = self.global_batch_size_of(model)
        size = self.models[model].micro_batch_size
        if size:
            return batch // size
        return self.num_workers.max or _default_micro_batches(batch)

    def worker_bounds(self, model: str) -> tuple[int, int]:
        """Return the smallest and the largest number of workers for one entry of `models`."""
        return self.num_workers.min, self.num_workers.max or self.num_micro_batches(model)

    @model_validator(mode="after")
    def _check_batches(self) -> Train:
        problems: dict[str, list[str]] = {}
        for name in self.models:
            if problem := self._find_batch_problem(name):
                problems.setdefault(problem, []).append(name)
        if problems:
            raise ValueError(
                "; ".join(f"{text} (for {', '.join(names)})" for text, names in problems.items())
            )
        return self

    def _find_batch_problem(self, model: str) -> str | None:
        batch = self.global_batch_size_of(model)
        size = self.models[model].micro_batch_size
        most = self.num_workers.max
        if size is None and most is not None and batch % most:
            below = batch // most * most
            nearest = " or ".join(str(n) for n in (below, below + most) if n)
            return (
                f"global_batch_size is {batch}, which num_workers ({most}) does not divide; "
                f"the nearest that it does: {nearest}"
            )
        if size is not None and batch % size:
            return (
                f"micro_batch_size is {size}, "
                f"which does not divide the global_batch_size of {batch}"
            )
        count = self.num_micro_batches(model)
        workers = max(self.worker_bounds(model))
        if count < workers:
            return (
                f"micro_batch_size is {batch // count}: {count} in a global batch of {batch}, "
                f"too few for {workers} workers"
            )
        return None


def _default_micro_batches(global_batch_size: int) -> int:
    """Return the largest divisor up to 8 whose micro-batches have at least 16 images, or 1."""
    for count in range(_MAX_DEFAULT_MICRO_BATCHES, 1, -1):
        divides = global_batch_size % count == 0
        if divides and global_batch_size // count >= _MIN_DEFAULT_MICRO_BATCH_SIZE:
            return count
    return 1
