"""Optimiser steps of one training."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from torch import Tensor

from components.data.loading.image_stores import Prefetcher
from components.data.loading.online_augment import Augmenter, Mixer
from components.data.loading.policy.policy import make_policy
from components.data.loading.sampling import mix_seed, sample_batches
from components.errors import UserError
from components.training.collectives import gather_objects, get_rank_and_world_size
from components.training.config import LoopConfig
from components.training.cuda_graphs import GraphedFunction
from components.training.losses import Criterion
from components.training.precision import autocast
from components.training.reducer import partition_micro_batches
from components.training.state import TrainState
from components.training.totals import PendingTotals, Totals

_MAX_IDS = 5


@dataclass
class _Step:
    """A step that was computed but not yet looked at.

    Attributes:
        position: epoch and step, for messages.
        losses: losses of the images `(B,)` of each micro-batch of this rank, by its index.
    """

    position: str
    micro_batches: tuple[Tensor, ...]
    losses: dict[int, Tensor]
    totals: PendingTotals


class Stepper:
    """Makes optimiser steps on `state`, one per global batch. Every rank has one."""

    def __init__(self, config: LoopConfig, state: TrainState) -> None:
        self.config = config
        self.state = state
        recipe = config.recipe
        num_classes = len(config.network.classes)
        height, width, _ = config.train.shape  # differs from the network's for features
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
        self.policy = make_policy(recipe, (height, width), config.seed)
        self.preemption_seen = False
        self.unchecked: deque[_Step] = deque()
        self._run_micro_batch = GraphedFunction(
            self._compute_micro_batch,
            config.device,
            enabled=config.cuda_graphs and state.reducer.can_be_captured,
        )

    def train_epoch(self) -> Iterator[Totals]:
        """Train the rest of the current epoch; yield the totals of each step.

        On a GPU they come one step late, while the next step is already being computed.

        Raises:
            UserError: the loss or the gradient of a step is not finite. On a CPU the step was not
                made. On a GPU it was, and `TrainState.is_finite` is false.
        """
        config = self.config
        state = self.state
        if state.is_frozen and state.epoch > config.recipe.freeze_epochs:
            state.unfreeze()
            self._run_micro_batch.reset()
        state.model.train()
        self.augmenter.begin_epoch(config.seed, state.epoch)
        balanced = config.recipe.sampling == "balanced"
        batches = sample_batches(
            config.train.labels, config.global_batch, config.seed, state.epoch, balanced=balanced
        )[state.step_in_epoch :]
        for rows, next_rows in zip_longest(batches, batches[1:]):
            try:
                checked = self._step(self._split(rows), self._split(next_rows))
            except Exception as error:
                error.add_note(f"({self._position()})")
                raise
            yield from checked
        while self.unchecked:
            yield self._check_oldest()

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
    ) -> list[Totals]:
        """Make one step on `micro_batches`, and prefetch the images of the next step.

        Returns:
            The totals of the steps that were checked meanwhile.
        """
        config = self.config
        state = self.state
        config.callback.on_step_begin(state.step)
        self._prefetch(next_micro_batches)
        batch_size = sum(map(len, micro_batches))
        losses: dict[int, Tensor] = {}

        def compute(i: int) -> None:
            losses[i] = self._compute_losses(i, micro_batches[i], batch_size)

        totals = state.reducer.reduce(
            len(micro_batches),
            compute,
            preemption_pending=not self.preemption_seen and config.callback.preemption_pending(),
            stop_requested=config.callback.stop_requested(),
        )
        self.unchecked.append(_Step(self._position(), micro_batches, losses, totals))
        checked = []
        while len(self.unchecked) > config.max_unchecked_steps:
            checked.append(self._check_oldest())
        state.optimizer_step()
        return checked

    def _check_oldest(self) -> Totals:
        """Return the totals of the oldest unchecked step; raise `UserError` if it diverged."""
        step = self.unchecked.popleft()
        totals = step.totals.wait()
        if not self.state.accepts(totals.loss, totals.gradient_norm):
            raise UserError(self._describe_divergence(step, totals))
        if totals.preemption_pending and self.preemption_seen:
            return replace(totals, preemption_pending=False)
        self.preemption_seen = self.preemption_seen or totals.preemption_pending
        return totals

    def _prefetch(self, micro_batches: tuple[Tensor, ...]) -> None:
        """Start to read the images that this rank needs in the next step."""
        if self.prefetcher.resident:
            return
        rank, world = get_rank_and_world_size()
        ranges, _ = partition_micro_batches(len(micro_batches), world)
        for i in ranges[rank]:
            self.prefetcher.submit((self.state.step + 1, i), micro_batches[i])

    def _compute_losses(self, i: int, rows: Tensor, batch_size: int) -> Tensor:
        """Fill the reducer's bucket from micro-batch `i`; return its losses `(B,)`."""
        config = self.config
        inputs = [rows]
        outside_graph = self.mixer or self.policy
        if not self.prefetcher.resident or outside_graph:
            inputs.append(self.prefetcher.get((self.state.step, i), rows))
        # The random numbers of mixing and dropout belong to the micro-batch, not to the rank.
        _seed_generators(mix_seed(config.seed, self.state.step << 12 ^ i), config.device)
        if outside_graph:
            on_device = rows.to(config.device, non_blocking=True)
            images = self.augmenter.augment(inputs.pop(), on_device)
            if self.policy:
                images = self.policy.augment(images, rows, self.state.epoch)
            targets = self.labels[on_device]
            inputs += self.mixer(images, targets) if self.mixer else (images, targets)
        return self._run_micro_batch(*inputs, constants=(batch_size,)).clone()

    def _compute_micro_batch(
        self,
        batch_size: int,
        rows: Tensor,
        images: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Fill the reducer's bucket from the images of `rows`; return their losses `(B,)`.

        Args:
            batch_size: images of the whole global batch.
            rows: rows of the micro-batch.
            images: the images; None fetches them.
            targets: class indices, or probabilities, of images that are already augmented; None
                augments the images.
        """
        config = self.config
        state = self.state
        rows = rows.to(config.device, non_blocking=True)
        labels = self.labels[rows]
        if images is None:
            images = config.train.fetch(rows)
        if targets is None:
            images = self.augmenter.augment(images, rows)
            targets = labels
        with state.reducer.fill_bucket() as sums:
            with autocast(config.device, state.precision):
                logits = state.model(images)
            losses = self.criterion(logits.float(), targets)
            loss = losses.sum()
            state.scaler.scale(loss / batch_size).backward()
            correct = (logits.detach().argmax(1) == labels).sum()
            torch.stack([loss.detach(), correct], out=sums)
        return losses.detach()

    def _describe_divergence(self, step: _Step, totals: Totals) -> str:
        """Return the message for a loss or gradient that is not finite. Every rank calls it.

        It names the first images with such a loss, and the ranks that computed them.
        """
        rows = [
            row
            for i, losses in step.losses.items()
            for row in step.micro_batches[i][~losses.isfinite().cpu()].tolist()
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
            f"{step.position}: {problem}; training stopped and nothing of that step was saved. "
            "Lower learning_rate, lengthen warmup_epochs or set clip_gradient_norm in params.yaml"
        )


def _seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of `device`.

    `torch.manual_seed` takes half a millisecond: it formats the stack once for each kind of device
    that is not in use.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
