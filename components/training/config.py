"""Inputs of the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from components.data.loading.image_stores import ImageStore
from components.params import Recipe, Reduction
from components.records.training import Network
from components.training.callback import NullCallback, TrainerCallback


@dataclass(frozen=True)
class LoopConfig:
    """Inputs of one training that stay the same in all of its steps.

    `global_batch` is in images. `micro_batches` is the number of parts of a global batch.
    `reduction` is `train.reduction` of params.yaml. `cuda_graphs` allows CUDA graphs on a GPU; the
    result is the same without them. `initial` is a safetensors file with the tensors that the
    network starts with; those that it lacks are random.
    """

    network: Network
    train: ImageStore
    val: ImageStore
    recipe: Recipe
    global_batch: int
    micro_batches: int
    seed: int
    device: torch.device
    reduction: Reduction = "ordered"
    cuda_graphs: bool = True
    initial: bytes | None = None
    callback: TrainerCallback = field(default_factory=NullCallback)

    @property
    def max_unchecked_steps(self) -> int:
        """Number of steps that may be made before the totals of an earlier one are looked at.

        Waiting for the totals of the newest step would leave a GPU idle until the processor has
        launched the next.
        """
        return int(self.device.type == "cuda")
