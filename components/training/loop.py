"""The training loop: torch alone, the same in one process, under Ray and on a GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from components.artifacts import Epoch, Network
from components.data.batches import Augmenter, Batch, rank_batches
from components.data.images import Images
from components.errors import UserError
from components.models import build
from components.models.classifier import Classifier
from components.params import Recipe
from components.training.collectives import average_buffers, rank_and_world, sum_over_ranks
from components.training.optim import build_optimizer, build_schedule
from components.training.precision import autocast, probe

Emit = Callable[[dict[str, Any]], None]
# Fixed, so that each image is always computed in the same company and the figures do not depend on the world size.
VALIDATION_BATCH = 500
_PULSE_S = 1.0


@dataclass
class Outcome:
    """What training leaves: one row per epoch, and the weights of the best of them on the CPU."""

    precision: str
    parameters: int
    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    state: dict[str, Tensor] = field(default_factory=dict)

    def add(self, row: Epoch, model: nn.Module) -> None:
        """Notes an epoch, and the model's weights if none was better: by top-1, then by loss, then the earlier."""
        self.history.append(row)
        if self.best is None or (row.val_top1, -row.val_loss) > (self.best.val_top1, -self.best.val_loss):
            self.best = row
            self.state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def train(
    network: Network,
    train_images: Images,
    val_images: Images,
    recipe: Recipe,
    *,
    global_batch: int,
    seed: int,
    device: torch.device,
    precision: str = "auto",
    emit: Emit = lambda _: None,
) -> Outcome:
    """Trains one model, data-parallel over the process group if there is one. Every rank calls it with the same data.

    `emit` is called on rank 0 with plain dictionaries: `probe`, `step` (about one a second) and `epoch` (each epoch).

    Raises:
        UserError: the loss stopped being finite; names the epoch.
    """
    rank, world = rank_and_world()
    emit = emit if rank == 0 else (lambda _: None)
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    torch.manual_seed(seed)
    model = build(network).to(device).to(memory_format=torch.channels_last)
    pixels, labels = torch.from_numpy(train_images.pixels).to(device), torch.from_numpy(train_images.labels).to(device)
    augmenter = Augmenter(pixels, recipe.augment, torch.tensor(network.channels.mean, device=device).round().to(torch.uint8))
    if precision == "auto":
        share = global_batch // world
        rows = (torch.arange(share) + rank * share) % len(train_images)
        measured = probe(model, pixels[rows.to(device)], labels[rows.to(device)])
        precision = measured.precision
        emit({"kind": "probe", **vars(measured)})
    outcome = Outcome(precision, sum(p.numel() for p in model.parameters()))
    wrapped = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True) if world > 1 else model
    optimizer = build_optimizer(model, recipe)
    steps_per_epoch = math.ceil(len(train_images) / global_batch)
    schedule = build_schedule(optimizer, recipe, steps_per_epoch)
    pulse = Pulse(emit, len(train_images), recipe.epochs, steps_per_epoch)

    for epoch in range(1, recipe.epochs + 1):
        model.train()
        pulse.begin_epoch(epoch)
        augmenter.begin(seed, epoch)
        sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, correct
        for batch in rank_batches(len(train_images), global_batch, rank, world, seed, epoch):
            sums += _step(wrapped, optimizer, augmenter, labels, batch, recipe.label_smoothing, precision)
            learning_rate = float(schedule.get_last_lr()[0])
            schedule.step()
            pulse.beat(sums, len(batch.rows))
        loss, top1 = (sum_over_ranks(sums) / len(train_images)).tolist()
        if not math.isfinite(loss):
            raise UserError(f"the training loss of epoch {epoch} is {loss}; lower learning_rate or lengthen warmup_epochs")
        rate = pulse.end_epoch()
        average_buffers(model)
        val_loss, val_top1 = validate(model, val_images, device)
        outcome.add(
            Epoch(
                epoch=epoch,
                step=epoch * steps_per_epoch,
                learning_rate=learning_rate,
                train_loss=loss,
                train_top1=top1,
                val_loss=val_loss,
                val_top1=val_top1,
            ),
            model,
        )
        emit({"kind": "epoch", **outcome.history[-1].model_dump(), "images_per_s": rate})
    return outcome


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    augmenter: Augmenter,
    labels: Tensor,
    batch: Batch,
    smoothing: float,
    precision: str,
) -> Tensor:
    """One step of the optimiser. Returns the sums of this rank's losses and correct predictions, `float64 (2,)`."""
    rows, weights = batch.rows.to(labels.device), batch.weights.to(labels.device)
    targets = labels[rows]
    with autocast(labels.device, precision):
        logits = model(augmenter.batch(batch.rows))
    losses = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing, reduction="none")
    optimizer.zero_grad(set_to_none=True)
    (losses * weights).sum().backward()
    optimizer.step()
    real = weights > 0
    with torch.no_grad():
        return torch.stack([losses[real].sum(), (logits.argmax(1) == targets)[real].sum()]).double()


@torch.inference_mode()
def validate(model: Classifier, images: Images, device: torch.device) -> tuple[float, float]:
    """Mean negative log-likelihood (nats) and top-1 over `images`, in fp32, the same to the bit for any world size.

    Whole batches are dealt out to the ranks, so that their results are those of one rank, and each enters the sums once,
    in the order of the data set.
    """
    model.eval()
    rank, world = rank_and_world()
    starts = range(0, len(images), VALIDATION_BATCH)
    sums = torch.zeros(len(starts), 2, dtype=torch.float64, device=device)
    for n, start in enumerate(starts):
        if n % world == rank:
            pixels = torch.from_numpy(images.pixels[start : start + VALIDATION_BATCH]).to(device)
            targets = torch.from_numpy(images.labels[start : start + VALIDATION_BATCH]).to(device)
            logits = model(pixels)
            sums[n, 0] = F.cross_entropy(logits.double(), targets, reduction="sum")
            sums[n, 1] = (logits.argmax(1) == targets).sum()
    rows = sum_over_ranks(sums).tolist()
    return math.fsum(r[0] for r in rows) / len(images), math.fsum(r[1] for r in rows) / len(images)


class Pulse:
    """Tells about once a second how far training is. The loss shown is rank 0's running mean; epochs' figures are exact."""

    def __init__(self, emit: Emit, rows: int, epochs: int, steps_per_epoch: int) -> None:
        self.emit, self.rows, self.epochs, self.steps_per_epoch = emit, rows, epochs, steps_per_epoch
        self.begun = time.monotonic()
        self.step = 0

    def begin_epoch(self, epoch: int) -> None:
        self.epoch, self.epoch_begun, self.epoch_step, self.seen = epoch, time.monotonic(), self.step, 0
        self.last, self.last_step = self.epoch_begun, self.step

    def beat(self, sums: Tensor, rows: int) -> None:
        """One step, of `rows` images on this rank, is done."""
        self.step += 1
        self.seen += rows
        now = time.monotonic()
        if now - self.last < _PULSE_S:
            return
        done = self.step / (self.epochs * self.steps_per_epoch)
        rate = (self.step - self.last_step) * self.rows / self.steps_per_epoch / (now - self.last)
        self.last, self.last_step = now, self.step
        self.emit(
            {
                "kind": "step",
                "epoch": self.epoch,
                "done": done,
                "loss": float(sums[0]) / self.seen,
                "images_per_s": rate,
                "seconds_left": (now - self.begun) * (1 - done) / done,
            }
        )

    def end_epoch(self) -> float:
        """Images per second of the epoch's steps, over all ranks."""
        return self.rows / (time.monotonic() - self.epoch_begun)
