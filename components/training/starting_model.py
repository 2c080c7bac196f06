"""The model with which a training starts."""

from __future__ import annotations

from dataclasses import dataclass

import safetensors.torch
import torch

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
        model.network.load_state_dict(safetensors.torch.load(config.initial), strict=False)
    if config.recipe.freeze_backbone:
        model.freeze_backbone(find_head(model.network))
    model = model.to(config.device).to(memory_format=torch.channels_last)
    if can_compute_once(config, model):
        config, head = compute_once(config, model)
        return StartingModel(config, model, head)
    return StartingModel(config, model, model)
