"""Inputs of the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from components.data.loading.image_stores import ImageStore
from components.params import Recipe
from components.records.training import Network
from components.training.callback import NullCallback, TrainerCallback


@dataclass(frozen=True)
class LoopConfig:
    """Inputs of one training that stay the same in all of its steps.

    `global_batch` is in images. `micro_batches` is the number of parts of a global batch.
    """

    network: Network
    train: ImageStore
    val: ImageStore
    recipe: Recipe
    global_batch: int
    micro_batches: int
    seed: int
    device: torch.device
    callback: TrainerCallback = field(default_factory=NullCallback)
