"""The training loop: torch only, the same in one process, under Ray and on a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from components.data.loading.policy.policy import resize_images
from components.errors import UserError
from components.models.classifier import Classifier
from components.records.training import Epoch
from components.training.callback import TrainerCallback
from components.training.collectives import get_rank_and_world_size
from components.training.config import LoopConfig
from components.training.events import (
    EpochFinished,
    PrecisionProbed,
    Resumed,
    StoppedEarly,
    TrainingEvent,
    TrainingWarning,
)
from components.training.frozen_features import Head
from components.training.precision import probe
from components.training.process_settings import prepare_process
from components.training.progress import ProgressReporter
from components.training.starting_model import prepare_model
from components.training.state import TrainState
from components.training.stepper import Stepper
from components.training.totals import Totals
from components.training.validation import validate


@dataclass
class TrainingOutcome:
    """Result of a training.

    `weights` are those of the `best` epoch, on the CPU. After a requested stop, `stopped_at_step`
    is the global step of the checkpoint; `history`, `best` and `weights` are empty.
    """

    precision: str
    parameters: int
    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    stopped_at_step: int | None = None


def train(
    config: LoopConfig, *, precision: str = "auto", resume: dict[str, Any] | None = None
) -> TrainingOutcome:
    """Train one model, data-parallel over the process group if there is one.

    Every rank calls this function with the same arguments. Weights and history depend on `config`
    and the kind of machine. They do not depend on the number of ranks, if all have the same number
    of threads, nor on interruptions.

    Args:
        config: inputs of the training.
        precision: `fp32`, `bf16`, `fp16`, or `auto` to measure which of the first two is better.
        resume: a state that an earlier call passed to `save_checkpoint`. Training continues after
            its last step, in its precision.

    Raises:
        UserError: the loss or the gradient is not finite, or a GPU's memory is too small. No
            checkpoint was saved with such a step.
        PeerLostError: another rank was lost.
    """
    prepare_process(config.device)
    with _explain_out_of_memory(config):
        return _train(config, precision, resume)


def _train(config: LoopConfig, precision: str, resume: dict[str, Any] | None) -> TrainingOutcome:
    rank0 = _Rank0Output(config.callback)
    start = prepare_model(config)
    config = start.config
    model = start.model
    if isinstance(start.trained, Head) and precision == "auto":
        precision = "fp32"  # a head alone takes too little time to gain from another
    if resume is not None:
        precision = resume["precision"]
    elif precision == "auto":
        result = _probe_precision(config, model)
        precision = result.precision
        rank0.emit(result)
    steps_per_epoch = math.ceil(len(config.train) / config.global_batch)
    state = TrainState(
        start.trained,
        config.recipe,
        steps_per_epoch,
        precision,
        reduction=config.reduction,
        cuda_graphs=config.cuda_graphs,
    )
    if resume is not None:
        state.load_state_dict(resume)
        rank0.emit(Resumed(state.epoch, state.step, list(state.history.epochs)))
    else:
        # This checkpoint keeps the probe's choice of precision across a restart.
        rank0.save(state, wait=True)
    finished = _train_epochs(config, state, rank0)
    outcome = TrainingOutcome(precision, sum(p.numel() for p in model.parameters()))
    if finished:
        outcome.history = state.history.epochs
        outcome.best = state.history.best
        outcome.weights = state.history.best_weights
        if isinstance(start.trained, Head):
            outcome.weights = start.trained.complete(outcome.weights, model)
    else:
        outcome.stopped_at_step = state.step
    return outcome


@contextmanager
def _explain_out_of_memory(config: LoopConfig) -> Iterator[None]:
    """Raise an error that says what to change when the memory of a GPU does not suffice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        height, width, channels = config.network.shape
        images = -(-config.global_batch // config.micro_batches)
        total = torch.cuda.get_device_properties(config.device).total_memory / 2**30
        raise UserError(
            f"{config.network.architecture}: the {total:.0f} GiB of "
            f"{torch.cuda.get_device_name(config.device)} do not suffice for micro-batches of "
            f"{images} images of {height} x {width} x {channels}; lower micro_batch_size in "
            f"params.yaml (now {images}), and set train.images: disk if the images occupy the "
            "memory"
        ) from error


class _Rank0Output:
    """Passes events and checkpoints to the callback on rank 0, and does nothing elsewhere."""

    def __init__(self, callback: TrainerCallback) -> None:
        self.callback = callback
        self.is_rank0 = get_rank_and_world_size()[0] == 0

    def emit(self, event: TrainingEvent) -> None:
        if self.is_rank0:
            self.callback.on_event(event)

    def save(self, state: TrainState, *, wait: bool) -> None:
        # A step that is not finite ends the training, but may not have been noticed yet.
        if self.is_rank0 and state.is_finite():
            self.callback.save_checkpoint(state.state_dict(), wait)

    def save_after_step(self, state: TrainState, totals: Totals) -> None:
        """Save a checkpoint if one is due, and at once before a preemption or a stop."""
        urgent = totals.preemption_pending or totals.stop_requested
        if urgent or (self.is_rank0 and self.callback.checkpoint_due(state.step)):
            self.save(state, wait=urgent)
        if totals.preemption_pending:
            text = f"a machine is about to leave: the state after step {state.step} is safe"
            self.emit(TrainingWarning(text))


def _probe_precision(config: LoopConfig, model: Classifier) -> PrecisionProbed:
    """Measure fp32 and bfloat16 on a micro-batch of the training images, different on each rank."""
    rank, _ = get_rank_and_world_size()
    size = config.global_batch // config.micro_batches
    rows = (torch.arange(size) + rank * size) % len(config.train)
    images = config.train.fetch(rows)
    if config.recipe.train_sides:
        images = resize_images(images, config.recipe.train_sides)
    return probe(model, images, config.train.labels[rows].to(config.device))


def _train_epochs(config: LoopConfig, state: TrainState, rank0: _Rank0Output) -> bool:
    """Train until the last epoch or until early stopping; return False after a requested stop."""
    num_images = len(config.train)
    epochs = config.recipe.epochs
    stepper = Stepper(config, state)
    progress = ProgressReporter(rank0.emit, num_images, epochs, state.steps_per_epoch, state.step)
    while state.epoch <= epochs and not state.history.should_stop:
        progress.begin_epoch(state.epoch)
        for totals in stepper.train_epoch():
            progress.on_step(lambda: _compute_mean_loss(config, state))
            config.callback.on_progress()
            rank0.save_after_step(state, totals)
            if totals.stop_requested:
                return False
        images_per_s = progress.end_epoch()
        epoch = _end_epoch(config, state)
        rank0.emit(EpochFinished(epoch, images_per_s))
        is_last = state.epoch > epochs or state.history.should_stop
        rank0.save(state, wait=is_last)
    if state.epoch <= epochs:
        rank0.emit(StoppedEarly(state.epoch - 1, state.history.epochs_without_improvement))
    return True


def _compute_mean_loss(config: LoopConfig, state: TrainState) -> float:
    """Return the mean loss of the epoch's images so far."""
    return state.loss_sum / min(state.step_in_epoch * config.global_batch, len(config.train))


def _end_epoch(config: LoopConfig, state: TrainState) -> Epoch:
    """Validate the model and add the epoch to the history."""
    num_images = len(config.train)
    val_loss, val_top1 = validate(
        state.eval_model, config.val, config.device, config.callback.on_progress
    )
    epoch = Epoch(
        epoch=state.epoch,
        step=state.step,
        learning_rate=state.learning_rate,
        train_loss=state.loss_sum / num_images,
        train_top1=state.num_correct / num_images,
        val_loss=val_loss,
        val_top1=val_top1,
    )
    state.history.add(epoch, state.copy_eval_weights)
    state.epoch_totals.zero_()
    return epoch
