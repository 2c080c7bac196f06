"""Finished epochs, the best of them, and early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from components.params import EarlyStopping
from components.records.training import Epoch


@dataclass
class EpochHistory:
    """Finished epochs, the weights of the best one, and the state of early stopping.

    The best epoch has the highest top-1; of equal ones the lower validation loss wins, then the
    earlier epoch. If early stopping uses `val_loss`, the best epoch has the lowest one.
    """

    early_stopping: EarlyStopping | None
    epochs: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """On the CPU."""
    reference_score: float = -math.inf
    """Score of the last improvement, which the next one exceeds by more than `min_delta`."""
    epochs_without_improvement: int = 0

    def add(self, epoch: Epoch, copy_weights: Callable[[], dict[str, Tensor]]) -> None:
        """Append an epoch, and keep `copy_weights()` if it is the best so far."""
        self.epochs.append(epoch)
        if self.best is None or self._rank(epoch) > self._rank(self.best):
            self.best = epoch
            self.best_weights = copy_weights()
        if self.early_stopping:
            score, _ = self._rank(epoch)
            if score > self.reference_score + self.early_stopping.min_delta:
                self.reference_score = score
                self.epochs_without_improvement = 0
            else:
                self.epochs_without_improvement += 1

    def _rank(self, epoch: Epoch) -> tuple[float, float]:
        """Return the score of an epoch and a tie-breaker; higher is better."""
        if self.early_stopping is not None and self.early_stopping.metric == "val_loss":
            return -epoch.val_loss, 0.0
        return epoch.val_top1, -epoch.val_loss

    @property
    def should_stop(self) -> bool:
        """True if early stopping ends the training before its last epoch."""
        settings = self.early_stopping
        return settings is not None and self.epochs_without_improvement >= settings.patience

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the settings, as plain values and tensors."""
        return {
            "epochs": [epoch.model_dump() for epoch in self.epochs],
            "best": self.best.model_dump() if self.best else None,
            "best_weights": self.best_weights,
            "reference_score": self.reference_score,
            "epochs_without_improvement": self.epochs_without_improvement,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.epochs = [Epoch.model_validate(epoch) for epoch in state["epochs"]]
        self.best = Epoch.model_validate(state["best"]) if state["best"] else None
        self.best_weights = state["best_weights"]
        self.reference_score = state["reference_score"]
        self.epochs_without_improvement = state["epochs_without_improvement"]
