"""Optimiser steps of one training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import zip_longest

import torch
from torch import Tensor

from components.data.loading.image_stores import Prefetcher
from components.data.loading.online_augment import Augmenter, Mixer
from components.data.loading.sampling import sample_batches
from components.errors import UserError
from components.training.collectives import gather_objects, get_rank_and_world_size
from components.training.config import LoopConfig
from components.training.losses import Criterion
from components.training.precision import autocast
from components.training.reducer import Totals, partition_micro_batches
from components.training.state import TrainState

_MAX_IDS = 5


class Stepper:
    """Makes optimiser steps on `state`, one per global batch. Every rank has one."""

    def __init__(self, config: LoopConfig, state: TrainState) -> None:
        self.config = config
        self.state = state
        recipe = config.recipe
        num_classes = len(config.network.classes)
        height, width, _ = config.network.shape
        mean = torch.tensor(config.network.channels.mean, device=config.device)
        fill = mean.round().to(torch.uint8)
        self.prefetcher = Prefetcher(config.train)
        self.augmenter = Augmenter(len(config.train), (height, width), recipe.augment, fill)
        self.labels = config.train.labels.to(config.device)
        class_counts = torch.bincount(self.labels, minlength=num_classes)
        self.criterion = Criterion(recipe.loss, recipe.label_smoothing, class_counts)
        self.mixer: Mixer | None = None
        if recipe.augment.mixup or recipe.augment.cutmix:
            self.mixer = Mixer(recipe.augment, num_classes)
        self.preemption_seen = False

    def train_epoch(self) -> Iterator[Totals]:
        """Train the rest of the current epoch; yield the totals of each step."""
        config = self.config
        state = self.state
        state.model.train()
        self.augmenter.begin_epoch(config.seed, state.epoch)
        balanced = config.recipe.sampling == "balanced"
        batches = sample_batches(
            config.train.labels, config.global_batch, config.seed, state.epoch, balanced=balanced
        )[state.step_in_epoch :]
        for rows, next_rows in zip_longest(batches, batches[1:]):
            try:
                totals = self._step(self._split(rows), self._split(next_rows))
            except Exception as error:
                error.add_note(f"({self._position()})")
                raise
            self.preemption_seen = self.preemption_seen or totals.preemption_pending
            state.loss_sum += totals.loss
            state.num_correct += totals.correct
            yield totals

    def _position(self) -> str:
        """Return the epoch and the step that comes next, for messages."""
        state = self.state
        return f"epoch {state.epoch}, step {state.step_in_epoch + 1} of {state.steps_per_epoch}"

    def _split(self, rows: Tensor | None) -> tuple[Tensor, ...]:
        """Split the rows of a global batch into micro-batches. None is no batch and has none."""
        if rows is None:
            return ()
        # The last batch of an epoch may be short. It gets fewer micro-batches, of two images or
        # more, because batch norm cannot normalise a single image of one pixel.
        count = min(self.config.micro_batches, max(1, len(rows) // 2))
        micro_batches: tuple[Tensor, ...] = rows.tensor_split(count)
        return micro_batches

    def _step(
        self, micro_batches: tuple[Tensor, ...], next_micro_batches: tuple[Tensor, ...]
    ) -> Totals:
        """Make one step on `micro_batches`, and prefetch the images of the next step."""
        config = self.config
        state = self.state
        config.callback.on_step_begin(state.step)
        self._prefetch(next_micro_batches)
        batch_size = sum(map(len, micro_batches))
        losses: dict[int, Tensor] = {}

        def compute(i: int) -> Tensor:
            losses[i], correct = self._backward(i, micro_batches[i], batch_size)
            return torch.stack([losses[i].sum(), correct])

        totals = state.reducer.reduce(
            len(micro_batches),
            compute,
            preemption_pending=not self.preemption_seen and config.callback.preemption_pending(),
            stop_requested=config.callback.stop_requested(),
        )
        # The gradient scaler of fp16 skips a step whose gradient is not finite.
        gradient_finite = state.scaler.is_enabled() or math.isfinite(totals.gradient_norm)
        if not (math.isfinite(totals.loss) and gradient_finite):
            raise UserError(self._describe_divergence(totals, micro_batches, losses))
        state.scaler.unscale_(state.optimizer)
        if config.recipe.clip_gradient_norm:
            norm = totals.gradient_norm / state.scaler.get_scale()
            factor = min(1.0, config.recipe.clip_gradient_norm / (norm + 1e-6))
            state.reducer.scale_gradient(factor)
        state.optimizer_step()
        return totals

    def _prefetch(self, micro_batches: tuple[Tensor, ...]) -> None:
        """Start to read the images that this rank needs in the next step."""
        rank, world = get_rank_and_world_size()
        ranges, _ = partition_micro_batches(len(micro_batches), world)
        for i in ranges[rank]:
            self.prefetcher.submit((self.state.step + 1, i), micro_batches[i])

    def _backward(self, i: int, rows: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        """Add the gradient of micro-batch `i` to the parameters' `.grad`.

        Returns:
            The losses of the images, `(B,)`, and the number of correct predictions.
        """
        config = self.config
        state = self.state
        images = self.augmenter.augment(self.prefetcher.get((state.step, i), rows), rows)
        labels = self.labels[rows.to(config.device)]
        # The random numbers of mixing and dropout belong to the micro-batch, not to the rank.
        torch.manual_seed((config.seed << 32) ^ (state.step << 12) ^ i)
        mixed, targets = self.mixer(images, labels) if self.mixer else (images, labels)
        with autocast(config.device, state.precision):
            logits = state.model(mixed)
        loss = self.criterion(logits.float(), targets)
        state.scaler.scale(loss.sum() / batch_size).backward()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _describe_divergence(
        self, totals: Totals, micro_batches: tuple[Tensor, ...], losses: dict[int, Tensor]
    ) -> str:
        """Return the message for a loss or gradient that is not finite. Every rank calls it.

        It names the first images with such a loss, and the ranks that computed them.
        """
        rows = [
            row
            for i, loss in losses.items()
            for row in micro_batches[i][~loss.isfinite().cpu()].tolist()
        ]
        ids = self.config.train.fetch_ids(rows[:_MAX_IDS])
        causes = []
        for rank, (rank_ids, count) in enumerate(gather_objects((ids, len(rows)))):
            if rank_ids:
                more = count - len(rank_ids)
                suffix = f" and {more} more" if more else ""
                causes.append(f"rank {rank}: {', '.join(rank_ids)}{suffix}")
        if causes:
            problem = f"the loss is {totals.loss} ({'; '.join(causes)})"
        else:
            problem = f"the norm of the gradient is {totals.gradient_norm}"
        return (
            f"{self._position()}: {problem}; the step was not made. "
            "Lower learning_rate, lengthen warmup_epochs or set clip_gradient_norm in params.yaml"
        )
