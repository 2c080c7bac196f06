"""Layers of networks of every origin, and the learning rates that they get."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from components.models.architectures import build
from components.models.initial import find_head
from components.records.splits import Channels
from components.records.training import Network
from components.training.parameter_groups import divide_parameters, list_layers
from tests.unit.training.cases import make_recipe


def make_module(architecture: str, size: int = 224) -> nn.Module:
    network = Network(
        architecture=architecture,
        width=None,
        shape=(size, size, 3),
        classes=["a", "b"],
        channels=Channels(mean=[100.0] * 3, std=[50.0] * 3),
    )
    with torch.device("meta"):
        return build(network).network


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        ("cnn", 5),
        ("resnet18", 1 + 8),
        ("attention", 4 + 4),
        ("mobilenet_v3_small", 13 + 1),
        ("vgg11_bn", 8 + 2),
        ("vit_b_16", 1 + 12),
        ("convnext_tiny", 22),
        ("timm/resnet26", 1 + 8),
    ],
)
def test_layers_are_blocks_and_have_every_parameter_once(architecture: str, layers: int) -> None:
    module = make_module(architecture)
    head = list(module.get_submodule(find_head(module)).parameters())
    found = list_layers(module, head)
    listed = [p for layer in [*found, head] for p in layer]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(module.parameters())
    assert len(found) == layers


def test_rates_of_a_vision_transformer_are_those_of_timm() -> None:
    with torch.device("meta"):
        module = timm.create_model("vit_tiny_patch16_224", num_classes=2)
    expected = {
        p: group["lr_scale"]
        for group in param_groups_layer_decay(module, layer_decay=0.75)
        for p in group["params"]
    }
    groups = divide_parameters(module, make_recipe(layer_decay=0.75, learning_rate=1.0))
    rates = {p: rate for group, rate in groups for p in group}
    assert rates.keys() == expected.keys()
    norm = set(module.norm.parameters())  # timm puts the last normalisation into the head's layer
    for p, rate in rates.items():
        assert p in norm or rate == pytest.approx(expected[p])


def test_rates_fall_from_the_head_on_and_multiply_with_that_of_the_backbone() -> None:
    module = make_module("cnn", 32)
    recipe = make_recipe(learning_rate=1.0, layer_decay=0.5, backbone_learning_rate=0.1)
    rates = [rate for _, rate in divide_parameters(module, recipe)]
    assert rates == pytest.approx([1, 0.05, 0.025, 0.0125, 0.00625, 0.003125])
