"""The state of a training: created, saved and restored as one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from components.models.classifier import Classifier
from components.params import Recipe
from components.training.epoch_history import EpochHistory
from components.training.optimizers import build_optimizer
from components.training.reducer import Reducer
from components.training.schedules import build_schedule


class TrainState:
    """The model with its optimiser, schedule, weight average, history and position in the run.

    The state is the same on every rank. It has no random generators: all random numbers are a
    function of the seed, the step and the example.

    Attributes:
        step: optimiser steps done in all.
        loss_sum: sum of the losses of the epoch's images so far.
        num_correct: correct predictions among them.
        learning_rate: rate of the last step.
    """

    def __init__(
        self, model: Classifier, recipe: Recipe, steps_per_epoch: int, precision: str
    ) -> None:
        self.model = model
        self.precision = precision
        self.steps_per_epoch = steps_per_epoch
        self.ema: AveragedModel | None = None
        if recipe.ema_decay:
            average = get_ema_multi_avg_fn(recipe.ema_decay)
            self.ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.reducer = Reducer(model)
        self.optimizer = build_optimizer(model, recipe)
        self.schedule = build_schedule(self.optimizer, recipe, steps_per_epoch)
        device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.history = EpochHistory(recipe.early_stopping)
        self.step = 0
        self.loss_sum = 0.0
        self.num_correct = 0
        self.learning_rate = 0.0

    @property
    def epoch(self) -> int:
        """Number of the epoch to which the next step belongs, from 1."""
        return len(self.history.epochs) + 1

    @property
    def step_in_epoch(self) -> int:
        """Steps done in that epoch."""
        return self.step - len(self.history.epochs) * self.steps_per_epoch

    @property
    def eval_model(self) -> Classifier:
        """The model that is validated and kept: the weight average if there is one."""
        return self.ema.module if self.ema is not None else self.model  # type: ignore[return-value]

    def copy_eval_weights(self) -> dict[str, Tensor]:
        """Return a copy of the state dict of `eval_model` on the CPU."""
        model = self.eval_model
        for name, buffer in model.named_buffers():
            # Batch norm counts this rank's forward passes, whose number depends on the number of
            # ranks. The number of steps does not.
            if name.endswith("num_batches_tracked"):
                buffer.fill_(self.step)
        return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as plain values and copied tensors.

        `torch.load(weights_only=True)` can read it.
        """
        state: dict[str, Any] = _copy_to_cpu(
            {
                "step": self.step,
                "precision": self.precision,
                "loss_sum": self.loss_sum,
                "num_correct": self.num_correct,
                "learning_rate": self.learning_rate,
                "model": self.model.state_dict(),
                "ema": self.ema.state_dict() if self.ema is not None else None,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "history": self.history.state_dict(),
            }
        )
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, except the precision, which the caller passes on."""
        self.step = state["step"]
        self.loss_sum = state["loss_sum"]
        self.num_correct = state["num_correct"]
        self.learning_rate = state["learning_rate"]
        self.model.load_state_dict(state["model"])
        self.reducer.adopt_statistics()
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.history.load_state_dict(state["history"])

    def optimizer_step(self) -> None:
        """Update the weights, the schedule and the weight average from the reduced gradients."""
        self.learning_rate = float(self.schedule.get_last_lr()[0])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.step += 1


def _copy_to_cpu(value: Any) -> Any:
    """Return a deep copy on the CPU, in which views into one long vector are separate tensors."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _copy_to_cpu(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_copy_to_cpu(inner) for inner in value]
    return copy.copy(value)
