"""Everything that a training is in the middle of: made once, saved and restored as one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from components.models.classifier import Classifier
from components.params import EarlyStopping, Recipe
from components.records.training import Epoch
from components.training.optimizers import build_optimizer, build_schedule
from components.training.reducer import Reducer


@dataclass
class Score:
    """The epochs so far and the weights, on the CPU, of the best of them: by what early stopping goes by, else by top-1."""

    stopping: EarlyStopping | None
    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    reference: float = -math.inf  # the figure that the next improvement has to exceed
    stale: int = 0  # epochs since the last one

    def add(self, row: Epoch, weights: Callable[[], dict[str, Tensor]]) -> None:
        """Notes an epoch, and its `weights()` if it is the best. Of equals in top-1 the lower loss counts, then the earlier."""
        self.history.append(row)
        if self.best is None or self._rank(row) > self._rank(self.best):
            self.best, self.state = row, weights()
        if self.stopping:
            figure = self._rank(row)[0]
            better = figure > self.reference + self.stopping.min_delta
            self.reference, self.stale = (figure, 0) if better else (self.reference, self.stale + 1)

    def _rank(self, row: Epoch) -> tuple[float, float]:
        by_loss = self.stopping is not None and self.stopping.metric == "val_loss"
        return (-row.val_loss, 0.0) if by_loss else (row.val_top1, -row.val_loss)

    @property
    def enough(self) -> bool:
        """Whether training should stop before its last epoch."""
        return self.stopping is not None and self.stale >= self.stopping.patience


class State:
    """The model with its optimiser, schedule, averages and scores, and the place in the run where they are.

    Every rank holds the same: a rank's own randomness is a function of seed, step and example, so that there is none to save.
    """

    def __init__(self, model: Classifier, recipe: Recipe, steps_per_epoch: int, precision: str) -> None:
        self.model, self.recipe, self.precision = model, recipe, precision
        self.steps_per_epoch = steps_per_epoch
        self.average = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
            if recipe.ema_decay
            else None
        )
        self.reducer = Reducer(model)
        self.optimizer = build_optimizer(model, recipe)
        self.schedule = build_schedule(self.optimizer, recipe, steps_per_epoch)
        device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.score = Score(recipe.early_stopping)
        self.step = 0  # of the optimiser, in all
        self.loss = 0.0  # sums over the epoch's images so far
        self.correct = 0
        self.learning_rate = 0.0  # of the last step

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to, from 1."""
        return len(self.score.history) + 1

    @property
    def batch(self) -> int:
        """Steps done in that epoch."""
        return self.step - len(self.score.history) * self.steps_per_epoch

    @property
    def learned(self) -> Classifier:
        """The model that is validated and kept."""
        return self.average.module if self.average is not None else self.model  # type: ignore[return-value]

    def weights(self) -> dict[str, Tensor]:
        """A copy on the CPU of what is kept."""
        self._count_batches(self.learned)
        return {name: value.detach().cpu().clone() for name, value in self.learned.state_dict().items()}

    def dump(self) -> dict[str, Any]:
        """All of it, as plain values and tensors of its own (`torch.load(weights_only=True)` reads it)."""
        score = self.score
        dumped: dict[str, Any] = _own(
            {
                "step": self.step,
                "precision": self.precision,
                "loss": self.loss,
                "correct": self.correct,
                "learning_rate": self.learning_rate,
                "model": self.model.state_dict(),
                "average": self.average.state_dict() if self.average is not None else None,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "history": [row.model_dump() for row in score.history],
                "best": score.best.model_dump() if score.best else None,
                "best_state": score.state,
                "reference": score.reference,
                "stale": score.stale,
            }
        )
        return dumped

    def restore(self, saved: dict[str, Any]) -> None:
        self.step, self.loss, self.correct = saved["step"], saved["loss"], saved["correct"]
        self.learning_rate = saved["learning_rate"]
        self.model.load_state_dict(saved["model"])
        self.reducer.adopt()
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        self.score = Score(
            self.recipe.early_stopping,
            [Epoch.model_validate(row) for row in saved["history"]],
            Epoch.model_validate(saved["best"]) if saved["best"] else None,
            saved["best_state"],
            saved["reference"],
            saved["stale"],
        )

    def advance(self) -> None:
        """One step of the optimiser on the reduced gradients."""
        self.learning_rate = float(self.schedule.get_last_lr()[0])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1

    def _count_batches(self, module: nn.Module) -> None:
        """Batch norm counts its forward passes, of which each rank has its own number: say steps instead."""
        for name, buffer in module.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(self.step)


def _own(value: Any) -> Any:
    """A deep copy on the CPU. Views into one long vector come out as tensors of their own size."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _own(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_own(inner) for inner in value]
    return copy.copy(value)
