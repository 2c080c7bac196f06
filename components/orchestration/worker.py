"""The program of each Ray Train worker: this process's part of one training."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypedDict

import ray.train
import ray.train.torch
import torch

from components.data.loading.image_stores import ImageStore, open_image_store
from components.errors import PeerLostError, UserError
from components.models import weights
from components.orchestration.callbacks import Rank0Callback, WorkerCallback
from components.orchestration.checkpoints import Checkpoints, CheckpointWriter, parse_checkpoint
from components.orchestration.event_channel import EventActor, WorkerChannel
from components.orchestration.events import WorkersStarted
from components.orchestration.job import (
    Refused,
    StoppedByRequest,
    TrainedModel,
    TrainingJob,
    WorkerResult,
)
from components.orchestration.watchdog import Watchdog
from components.training.callback import TrainerCallback
from components.training.collectives import broadcast_bytes, gather_objects
from components.training.config import LoopConfig
from components.training.events import TrainingWarning
from components.training.loop import TrainingOutcome, train

WrapCallback = Callable[[TrainerCallback, int], TrainerCallback]
"""Returns a callback around another one, given the rank. Tests inject faults with it."""


class WorkerConfig(TypedDict):
    """The argument that Ray Train hands to every worker."""

    job: TrainingJob
    events: ray.actor.ActorHandle[EventActor]
    wrap_callback: WrapCallback | None


def run_worker(config: WorkerConfig) -> WorkerResult | None:
    """Train `job` on this rank; rank 0 returns the result, the others None.

    A mistake of the user that only shows here is returned as `Refused`, not raised: Ray Train
    would restart the group, which cannot help. The same holds for an error that has already
    ended an earlier group in the same way.
    """
    job = config["job"]
    channel = WorkerChannel(config["events"])
    fatal_error = channel.fatal_error()
    if fatal_error:
        return Refused(fatal_error)
    rank = ray.train.get_context().get_world_rank()
    _report_stacks(job, rank, channel)
    watchdog = Watchdog(job.watchdog_s, job.stacks_path(rank))
    try:
        return _train(config, channel, rank, watchdog)
    except UserError as error:
        return Refused(str(error))
    except PeerLostError:
        raise
    except Exception as error:
        channel.report_failure(error)
        raise
    finally:
        watchdog.disarm()


def _report_stacks(job: TrainingJob, rank: int, channel: WorkerChannel) -> None:
    """Rename the stacks that a watchdog of an earlier group left here, and report them."""
    stacks = job.stacks_path(rank)
    if stacks.exists() and stacks.stat().st_size:
        kept = stacks.replace(stacks.with_suffix(f".{int(time.time())}.txt"))
        channel.send(
            TrainingWarning(
                f"rank {rank} made no step for {job.watchdog_s:g} s and was ended; "
                f"its stacks: {kept}"
            )
        )


def _train(
    config: WorkerConfig, channel: WorkerChannel, rank: int, watchdog: Watchdog
) -> WorkerResult | None:
    job = config["job"]
    torch.set_num_threads(max(1, int(job.cpus_per_worker)))
    device = ray.train.torch.get_device() if job.device == "gpu" else torch.device("cpu")
    checkpoints = Checkpoints(job.checkpoint_store(), job.fingerprint, job.checkpoint.keep)
    if rank == 0:
        channel.send(WorkersStarted(ray.train.get_context().get_world_size()))
    # Unpacking a large set may take longer than any step: the watchdog starts afterwards.
    train_images, val_images = _open_images(job, device, channel, rank)
    watchdog.reset()
    callback: TrainerCallback = WorkerCallback(watchdog)
    checkpoint = None
    if rank == 0:
        writer = CheckpointWriter(checkpoints, channel.send)
        callback = Rank0Callback(watchdog, channel, writer, job.checkpoint)
        checkpoint = checkpoints.read_newest(channel.send)
    if config["wrap_callback"] is not None:
        callback = config["wrap_callback"](callback, rank)
    checkpoint = broadcast_bytes(checkpoint, device)
    loop = make_loop_config(job, train_images, val_images, device, callback)
    resume = None if checkpoint is None else parse_checkpoint(checkpoint)
    outcome = train(loop, precision=job.precision, resume=resume)
    return _result(job, outcome) if rank == 0 else None


def make_loop_config(
    job: TrainingJob,
    train_images: ImageStore,
    val_images: ImageStore,
    device: torch.device,
    callback: TrainerCallback,
) -> LoopConfig:
    """Return the loop's inputs for a job on one rank."""
    return LoopConfig(
        network=job.network,
        train=train_images,
        val=val_images,
        recipe=job.recipe,
        global_batch=job.global_batch,
        micro_batches=job.micro_batches,
        seed=job.seed,
        device=device,
        reduction=job.reduction,
        initial=job.read_initial(),
        callback=callback,
    )


def _open_images(
    job: TrainingJob, device: torch.device, channel: WorkerChannel, rank: int
) -> tuple[ImageStore, ImageStore]:
    """Open the training and the validation split on every rank.

    Raises:
        UserError: raised on every rank if one of them cannot read its splits; the message has
            its reason.
    """
    error = None
    stores = []
    sharing_workers = ray.train.get_context().get_local_world_size()
    on_progress = channel.heartbeat if rank == 0 else _nothing
    try:
        for split in (job.train_data, job.val_data):
            folder = job.locate(split)
            cache = job.scratch() / "images"
            stores.append(
                open_image_store(folder, job.images, cache, device, sharing_workers, on_progress)
            )
    except (UserError, OSError) as caught:
        error = str(caught)
    errors = [f"rank {rank}: {text}" for rank, text in enumerate(gather_objects(error)) if text]
    if errors:
        raise UserError("; ".join(errors))
    train_images, val_images = stores
    return train_images, val_images


def _nothing() -> None: ...


def _result(job: TrainingJob, outcome: TrainingOutcome) -> WorkerResult:
    if outcome.stopped_at_step is not None:
        return StoppedByRequest(outcome.stopped_at_step)
    assert outcome.best is not None
    return TrainedModel(
        weights=weights.serialize(job.network, outcome.weights),
        history=outcome.history,
        best=outcome.best,
        precision=outcome.precision,
        parameters=outcome.parameters,
    )
