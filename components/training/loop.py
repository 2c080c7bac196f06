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
        rows = slice(rank * (global_batch // world), (rank + 1) * (global_batch // world))
        measured = probe(model, pixels[rows], labels[rows])
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
        augmenter.begin(seed, epoch)
        sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, correct
        for batch in rank_batches(len(train_images), global_batch, rank, world, seed, epoch):
            sums += _step(wrapped, augmenter, labels, batch, recipe, precision, optimizer)
            rate = float(schedule.get_last_lr()[0])
            schedule.step()
            pulse.beat(epoch, sums, len(batch.rows))
        loss, correct = (sum_over_ranks(sums) / len(train_images)).tolist()
        if not math.isfinite(loss):
            raise UserError(f"the training loss of epoch {epoch} is {loss}; lower learning_rate or lengthen warmup_epochs")
        average_buffers(model)
        val_loss, val_top1 = validate(model, val_images, device)
        row = Epoch(
            epoch=epoch,
            step=epoch * steps_per_epoch,
            learning_rate=rate,
            train_loss=loss,
            train_top1=correct,
            val_loss=val_loss,
            val_top1=val_top1,
        )
        outcome.history.append(row)
        if outcome.best is None or (row.val_top1, -row.val_loss) > (outcome.best.val_top1, -outcome.best.val_loss):
            outcome.best = row
            outcome.state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        emit({"kind": "epoch", **row.model_dump(), "images_per_s": pulse.epoch_rate()})
    return outcome


def _step(
    model: nn.Module,
    augmenter: Augmenter,
    labels: Tensor,
    batch: Batch,
    recipe: Recipe,
    precision: str,
    optimizer: torch.optim.Optimizer,
) -> Tensor:
    """One step of the optimiser. Returns the sums of this rank's losses and correct predictions, `float64 (2,)`."""
    rows, weights = batch.rows.to(labels.device), batch.weights.to(labels.device)
    targets = labels[rows]
    with autocast(labels.device, precision):
        logits = model(augmenter.batch(batch.rows))
    losses = F.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing, reduction="none")
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
        self.begun = self.last = self.epoch_begun = time.monotonic()
        self.seen = self.step = 0

    def beat(self, epoch: int, sums: Tensor, rows: int) -> None:
        if self.step % self.steps_per_epoch == 0:
            self.epoch_begun, self.seen = time.monotonic(), 0
        self.step += 1
        self.seen += rows
        now = time.monotonic()
        if now - self.last < _PULSE_S:
            return
        self.last = now
        done = self.step / (self.epochs * self.steps_per_epoch)
        in_epoch = (self.step - 1) % self.steps_per_epoch + 1
        self.emit(
            {
                "kind": "step",
                "epoch": epoch,
                "epochs": self.epochs,
                "step": self.step,
                "done": done,
                "loss": float(sums[0]) / self.seen,
                "images_per_s": self.rows * in_epoch / self.steps_per_epoch / (now - self.epoch_begun),
                "seconds_left": (now - self.begun) * (1 - done) / done,
            }
        )

    def epoch_rate(self) -> float:
        """Images per second of the epoch so far, over all ranks, validation included."""
        return self.rows / (time.monotonic() - self.epoch_begun)
