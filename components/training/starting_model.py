"""The model with which a training starts."""

from __future__ import annotations

from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor, nn

from components.models.architectures import build
from components.models.classifier import Classifier
from components.models.initial import find_head
from components.training.config import LoopConfig
from components.training.frozen_features import Head, can_compute_once, compute_once


@dataclass(frozen=True)
class StartingModel:
    """A model on its device, and what of it is trained.

    Attributes:
        config: inputs of the loop; with the features of a frozen backbone in place of the images.
        model: the whole model.
        trained: the model, or its head alone.
    """

    config: LoopConfig
    model: Classifier
    trained: Classifier | Head


def prepare_model(config: LoopConfig) -> StartingModel:
    """Build the model with its starting weights; all random ones depend on the seed alone."""
    torch.manual_seed(config.seed)
    model = build(config.network)
    if config.initial is not None:
        _load(model, safetensors.torch.load(config.initial))
    if config.recipe.freeze_backbone:
        model.freeze_backbone(find_head(model.network))
    model = model.to(config.device).to(memory_format=torch.channels_last)
    if can_compute_once(config, model):
        config, head = compute_once(config, model)
        return StartingModel(config, model, head)
    return StartingModel(config, model, model)


def _load(model: Classifier, initial: dict[str, Tensor]) -> None:
    """Load starting weights; a head that they lack starts at zero, as in BiT (arXiv:1912.11370).

    Random weights stay in all directions in which the features of a few images do not vary. Those
    of timm's EfficientNet with two classes are so large that they cost four points of accuracy.
    """
    model.network.load_state_dict(initial, strict=False)
    head = find_head(model.network)
    for name, parameter in model.network.get_submodule(head).named_parameters():
        if f"{head}.{name}" not in initial:
            nn.init.zeros_(parameter)
