"""The training loop: torch alone, the same in one process, under Ray and on a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.data.loading.image_stores import Ahead, Pool
from components.data.loading.online_augment import Augmenter, Mixer
from components.data.loading.sampling import epoch_batches
from components.errors import UserError
from components.models import build
from components.models.classifier import Classifier
from components.params import Recipe
from components.records.training import Epoch, Network
from components.training.callback import ALONE, Surroundings
from components.training.collectives import gather, rank_and_world, sum_over_ranks
from components.training.losses import Criterion
from components.training.precision import autocast, probe
from components.training.process_settings import keep_freed
from components.training.progress import Pulse
from components.training.reducer import Totals, deal
from components.training.state import State

# Fixed, so that each image is always computed in the same company and the figures do not depend on the world size.
VALIDATION_BATCH = 500


@dataclass
class Outcome:
    """What training leaves: one row per epoch, and the weights of the best of them on the CPU. `stopped` tells after which
    step somebody asked for an end; the state then is in the checkpoint and the rest is empty."""

    precision: str
    parameters: int
    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    stopped: int | None = None


@dataclass(frozen=True)
class Run:
    """What stays the same in all steps of one training."""

    network: Network
    train: Pool
    val: Pool
    recipe: Recipe
    global_batch: int
    micro_batches: int
    seed: int
    device: torch.device
    around: Surroundings


def train(run: Run, *, precision: str = "auto", resume: dict[str, Any] | None = None) -> Outcome:
    """Trains one model, data-parallel over the process group if there is one. Every rank calls it with the same arguments.

    Weights and history depend on `run` and the kind of machine, not on the number of ranks (with as many threads each), nor
    on interruptions: `resume` is the state that an earlier call gave to `save`, and training goes on behind its last step.

    Raises:
        UserError: the loss or the gradient is not finite; the model is as it was before that step.
    """
    rank, _ = rank_and_world()
    prepare_process(run.device)
    torch.manual_seed(run.seed)
    model = build(run.network).to(run.device).to(memory_format=torch.channels_last)
    if resume is not None:
        precision = resume["precision"]
    elif precision == "auto":
        size = run.global_batch // run.micro_batches
        rows = (torch.arange(size) + rank * size) % len(run.train)
        measured = probe(model, run.train.take(rows), run.train.labels[rows].to(run.device))
        precision = measured.precision
        run.around.emit({"kind": "probe", **vars(measured)})
    state = State(model, run.recipe, math.ceil(len(run.train) / run.global_batch), precision)
    if resume is not None:
        state.restore(resume)
        history = [row.model_dump() for row in state.score.history]
        run.around.emit({"kind": "resumed", "epoch": state.epoch, "step": state.step, "history": history})
    elif rank == 0:
        run.around.save(state.dump(), True)  # the probe's choice stands from here on
    finished = _epochs(run, state, Stepper(run, state))
    outcome = Outcome(precision, sum(p.numel() for p in model.parameters()))
    if not finished:
        outcome.stopped = state.step
        return outcome
    outcome.history, outcome.best, outcome.state = state.score.history, state.score.best, state.score.state
    return outcome


def prepare_process(device: torch.device) -> None:
    """What holds for all of a process that trains on `device`: deterministic algorithms, and memory that it keeps."""
    # What `torch.use_deterministic_algorithms` does, but for torch.compile's settings, whose import takes over a second.
    torch._C._set_deterministic_algorithms(True, warn_only=device.type != "cpu")
    # It would also write NaN into every fresh tensor, to expose code that reads one before writing: 6 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    keep_freed()


def _epochs(run: Run, state: State, stepper: Stepper) -> bool:
    """Trains until the last epoch, or until early stopping; False if somebody asked to stop before."""
    rank, _ = rank_and_world()
    emit = run.around.emit
    pulse = Pulse(emit, len(run.train), run.recipe.epochs, state.steps_per_epoch, state.step)
    while state.epoch <= run.recipe.epochs and not state.score.enough:
        pulse.begin_epoch(state.epoch)
        for totals in stepper.epoch():
            pulse.beat(state.loss / min(state.batch * run.global_batch, len(run.train)))
            run.around.alive()
            if rank == 0 and (totals.save or totals.stop or run.around.due(state.step)):
                run.around.save(state.dump(), totals.save or totals.stop)
            if totals.save:
                emit({"kind": "warning", "text": f"a machine is about to leave: the state after step {state.step} is safe"})
            if totals.stop:
                return False
        rate = pulse.end_epoch()
        row = _end_epoch(run, state)
        emit({"kind": "epoch", **row.model_dump(), "images_per_s": rate})
        if rank == 0:
            run.around.save(state.dump(), state.epoch > run.recipe.epochs or state.score.enough)
    if state.epoch <= run.recipe.epochs:
        emit({"kind": "early", "epoch": state.epoch - 1, "stale": state.score.stale})
    return True


def _end_epoch(run: Run, state: State) -> Epoch:
    rows = len(run.train)
    val_loss, val_top1 = validate(state.learned, run.val, run.device, run.around)
    row = Epoch(
        epoch=state.epoch,
        step=state.step,
        learning_rate=state.learning_rate,
        train_loss=state.loss / rows,
        train_top1=state.correct / rows,
        val_loss=val_loss,
        val_top1=val_top1,
    )
    state.score.add(row, state.weights)
    state.loss, state.correct = 0.0, 0
    return row


class Stepper:
    """Steps of the optimiser, one global batch each."""

    def __init__(self, run: Run, state: State) -> None:
        self.run, self.state = run, state
        recipe, classes = run.recipe, len(run.network.classes)
        height, width, _ = run.network.shape
        fill = torch.tensor(run.network.channels.mean, device=run.device).round().to(torch.uint8)
        self.ahead = Ahead(run.train)
        self.augmenter = Augmenter(len(run.train), (height, width), recipe.augment, fill)
        self.labels = run.train.labels.to(run.device)
        self.criterion = Criterion(recipe.loss, recipe.label_smoothing, torch.bincount(self.labels, minlength=classes))
        self.mixer = Mixer(recipe.augment, classes) if recipe.augment.mixup or recipe.augment.cutmix else None
        self.left = False  # the notice that a machine is leaving has been acted upon

    def epoch(self) -> Iterator[Totals]:
        """What is left of the epoch, step by step."""
        run, state = self.run, self.state
        state.model.train()
        self.augmenter.begin(run.seed, state.epoch)
        balanced = run.recipe.sampling == "balanced"
        batches = epoch_batches(run.train.labels, run.global_batch, run.seed, state.epoch, balanced=balanced)
        for rows, after in zip_longest(batches[state.batch :], batches[state.batch + 1 :]):
            try:
                totals = self._step(self._parts(rows), self._parts(after))
            except Exception as error:
                error.add_note(f"(epoch {state.epoch}, step {state.batch + 1} of {state.steps_per_epoch})")
                raise
            self.left = self.left or totals.save
            state.loss += totals.loss
            state.correct += totals.correct
            yield totals

    def _parts(self, rows: Tensor | None) -> tuple[Tensor, ...]:
        """The micro-batches of a batch."""
        if rows is None:
            return ()
        # Batch norm cannot normalise a single example of one pixel: the short batch that ends an epoch gives fewer parts.
        parts: tuple[Tensor, ...] = rows.tensor_split(min(self.run.micro_batches, max(1, len(rows) // 2)))
        return parts

    def _step(self, parts: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> Totals:
        """One step on these micro-batches; `after` are those of the next."""
        run, state = self.run, self.state
        size = sum(map(len, parts))
        losses: dict[int, Tensor] = {}
        rank, world = rank_and_world()
        for i in deal(len(after), world)[0][rank]:
            self.ahead.expect((state.step + 1, i), after[i])

        def compute(i: int) -> Tensor:
            images = self.augmenter.batch(self.ahead.take((state.step, i), parts[i]), parts[i])
            labels = self.labels[parts[i].to(run.device)]
            # Whatever is drawn from here on (mixing, dropout) is this micro-batch's own, on whichever rank.
            torch.manual_seed((run.seed << 32) ^ (state.step << 12) ^ i)
            mixed, targets = self.mixer(images, labels) if self.mixer else (images, labels)
            with autocast(run.device, state.precision):
                logits = state.model(mixed)
            loss = self.criterion(logits.float(), targets)
            state.scaler.scale(loss.sum() / size).backward()
            losses[i] = loss.detach()
            return torch.stack([losses[i].sum(), (logits.detach().argmax(1) == labels).sum()])

        totals = state.reducer.reduce(len(parts), compute, save=not self.left and run.around.leaving(), stop=run.around.stop())
        if not math.isfinite(totals.loss) or (not state.scaler.is_enabled() and not math.isfinite(totals.gradient_norm)):
            raise UserError(self._describe(totals, parts, losses))
        state.scaler.unscale_(state.optimizer)
        if run.recipe.clip_gradient_norm:
            norm = totals.gradient_norm / state.scaler.get_scale()
            state.reducer.scale(min(1.0, run.recipe.clip_gradient_norm / (norm + 1e-6)))
        state.advance()
        return totals

    def _describe(self, totals: Totals, parts: tuple[Tensor, ...], losses: dict[int, Tensor]) -> str:
        """Names the examples, and the ranks that computed them, whose loss is not finite. Every rank calls it."""
        rows = [row for i, loss in losses.items() for row in parts[i][~loss.isfinite().cpu()].tolist()]
        found = [
            f"rank {r}: {', '.join(names)}{f' and {count - len(names)} more' if count > len(names) else ''}"
            for r, (names, count) in enumerate(gather((self.run.train.names(rows[:5]), len(rows))))
            if names
        ]
        what = f"the loss is {totals.loss}" if found else f"the norm of the gradient is {totals.gradient_norm}"
        state = self.state
        return (
            f"epoch {state.epoch}, step {state.batch + 1} of {state.steps_per_epoch}: {what}"
            f"{' (' + '; '.join(found) + ')' if found else ''}; the step was not made. "
            "Lower learning_rate, lengthen warmup_epochs or set clip_gradient_norm in params.yaml"
        )


@torch.inference_mode()
def validate(model: Classifier, images: Pool, device: torch.device, around: Surroundings = ALONE) -> tuple[float, float]:
    """Mean negative log-likelihood (nats) and top-1 over `images`, in fp32, the same to the bit for any world size.

    Whole batches are dealt out to the ranks, so that their results are those of one rank, and each enters the sums once,
    in the order of the data set.
    """
    model.eval()
    rank, world = rank_and_world()
    # In fp32 a batch of large images would take more memory than a step of training does.
    size = max(1, min(VALIDATION_BATCH, VALIDATION_BATCH * 64 * 64 // (images.shape[0] * images.shape[1])))
    starts = range(0, len(images), size)
    sums = torch.zeros(len(starts), 2, dtype=torch.float64, device=device)
    for n, start in enumerate(starts):
        if n % world == rank:
            around.alive()
            rows = torch.arange(start, min(start + size, len(images)))
            targets = images.labels[rows].to(device)
            logits = model(images.take(rows))
            sums[n, 0] = F.cross_entropy(logits.double(), targets, reduction="sum")
            sums[n, 1] = (logits.argmax(1) == targets).sum()
    losses, correct = zip(*sum_over_ranks(sums).tolist(), strict=True)
    return math.fsum(losses) / len(images), math.fsum(correct) / len(images)
