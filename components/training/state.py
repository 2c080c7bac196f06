"""The state of a training: created, saved and restored as one."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from components.models.classifier import Classifier
from components.models.initial import find_head
from components.params import Recipe, Reduction
from components.training.cuda_graphs import GraphedFunction
from components.training.epoch_history import EpochHistory
from components.training.optimizers import (
    add_l1_gradient,
    build_optimizer,
    load_optimizer_state,
)
from components.training.overlapped_reducer import build_reducer
from components.training.schedules import build_schedule
from components.training.weight_average import WeightAverage


class TrainState:
    """The model with its optimiser, schedule, weight average, history and position in the run.

    The state is the same on every rank. It has no random generators: all random numbers are a
    function of the seed, the step and the example.

    Attributes:
        step: optimiser steps done in all.
        frozen_steps: steps from the first on that train the head alone.
        is_frozen: `unfreeze` is to be called after these steps.
        epoch_totals: `float64 (5,)`, the sums of `Reducer.totals` over the epoch's steps so far.
        learning_rate: rate of the last step.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        steps_per_epoch: int,
        precision: str,
        *,
        reduction: Reduction = "ordered",
        cuda_graphs: bool = True,
    ) -> None:
        self.model = model
        self.precision = precision
        self.steps_per_epoch = steps_per_epoch
        self.clip_gradient_norm = recipe.clip_gradient_norm
        self.ema = WeightAverage(model, recipe.ema_decay) if recipe.ema_decay else None
        self.frozen_steps = recipe.freeze_epochs * steps_per_epoch
        self.is_frozen = self.frozen_steps > 0
        if self.is_frozen:
            assert isinstance(model, Classifier)  # a head alone is never frozen
            model.freeze_backbone(find_head(model.network))
        self._build_reducer = partial(build_reducer, model, reduction, cuda_graphs=cuda_graphs)
        self.reducer = self._build_reducer()
        device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        # The scaler would let a fused optimiser decide whether to skip a step, Muon's part too.
        fused = device.type == "cuda" and not self.scaler.is_enabled()
        self.optimizer = build_optimizer(model, recipe, fused=fused)
        self.schedule = build_schedule(self.optimizer, recipe, steps_per_epoch)
        num_groups = len(self.optimizer.param_groups) if fused else 0
        self._learning_rates = torch.zeros(num_groups, device=device)
        self._update_weights = GraphedFunction(
            self._compute_update, device, enabled=cuda_graphs and fused
        )
        self.history = EpochHistory(recipe.early_stopping)
        self.step = 0
        self.epoch_totals = torch.zeros(
            len(self.reducer.totals), dtype=torch.float64, device=device
        )
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
    def eval_model(self) -> nn.Module:
        """The model that is validated and kept: the weight average if there is one."""
        return self.ema.model if self.ema is not None else self.model

    @property
    def loss_sum(self) -> float:
        """Sum of the losses of the epoch's images so far."""
        return self.epoch_totals[0].item()

    @property
    def num_correct(self) -> int:
        """Correct predictions among them."""
        return round(self.epoch_totals[1].item())

    def is_finite(self) -> bool:
        """Return whether losses and gradients of the epoch's steps were all finite."""
        return self.accepts(*self.epoch_totals[[0, -1]].tolist())

    def accepts(self, loss: float, gradient_norm: float) -> bool:
        """Return whether a step with this loss and gradient may be made."""
        # The gradient scaler of fp16 skips a step whose gradient is not finite.
        gradient_finite = self.scaler.is_enabled() or math.isfinite(gradient_norm)
        return math.isfinite(loss) and gradient_finite

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
                "epoch_totals": self.epoch_totals,
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
        self.epoch_totals.copy_(state["epoch_totals"])
        self.learning_rate = state["learning_rate"]
        # A checkpoint after exactly these steps was saved before the rest was unfrozen.
        if self.is_frozen and self.step > self.frozen_steps:
            self.unfreeze()
        self.model.load_state_dict(state["model"])
        self.reducer.adopt_statistics()
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.history.load_state_dict(state["history"])

    def unfreeze(self) -> None:
        """Train all weights from now on, after the steps that train the head alone.

        Optimiser and schedule have all weights from the start. Those that are frozen have no
        gradients, so that the optimiser leaves them as they are.
        """
        assert isinstance(self.model, Classifier)
        self.is_frozen = False
        self.model.unfreeze_backbone()
        self.reducer.detach()
        self.reducer = self._build_reducer()
        self._update_weights.reset()

    def optimizer_step(self) -> None:
        """Update the weights, the schedule and the weight average from the reduced gradients."""
        self.learning_rate = float(self.schedule.get_last_lr()[0])
        if len(self._learning_rates):  # a captured update reads them from the device
            rates = torch.tensor(self.schedule.get_last_lr(), dtype=torch.float32)
            self._learning_rates.copy_(rates, non_blocking=True)
        self._update_weights()
        self.schedule.step()
        if self.ema is not None:
            self.ema.num_updates += 1
        self.step += 1

    def _compute_update(self) -> Tensor:
        """Update the weights and the weight average, and return the epoch's totals."""
        self.scaler.unscale_(self.optimizer)
        if self.clip_gradient_norm:
            norm = self.reducer.gradient_norm.double() / self.scaler.get_scale()
            factor = (self.clip_gradient_norm / (norm + 1e-6)).clamp(max=1.0)
            self.reducer.scale_gradient(factor)
        add_l1_gradient(self.optimizer)
        groups = self.optimizer.param_groups
        learning_rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, self._learning_rates, strict=False):
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        for group, learning_rate in zip(groups, learning_rates, strict=True):
            group["lr"] = learning_rate
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.model)
        self.epoch_totals += self.reducer.totals
        return self.epoch_totals


def _copy_to_cpu(value: Any) -> Any:
    """Return a deep copy on the CPU, in which views into one long vector are separate tensors."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _copy_to_cpu(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_copy_to_cpu(inner) for inner in value]
    return copy.copy(value)
