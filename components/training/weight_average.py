"""Moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of the parameters and buffers of a model.

    torch's `AveragedModel` computes the same, but copies a counter to the device at each update and
    waits for it there.

    Attributes:
        model: a copy of the model with the average. Its integer buffers are not averaged.
        num_updates: number of updates so far. The first is to a copy of the model, not an average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self.num_updates = 0
        self._move_towards = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Include the present weights of `model`. The caller counts in `num_updates`."""
        averages = _list_floats(self.model)
        values = _list_floats(model)
        if self.num_updates:
            self._move_towards(averages, values, None)
            return
        for average, value in zip(averages, values, strict=True):
            average.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.num_updates = state["num_updates"]


def _list_floats(model: nn.Module) -> list[Tensor]:
    """Return the parameters and the floating-point buffers of a model."""
    tensors = [*model.parameters(), *model.buffers()]
    return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
