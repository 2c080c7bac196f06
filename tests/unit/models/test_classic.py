"""Presets of tutorials: sizes, parameters, and the network with one logit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from components.errors import UserError
from components.models.classic import build_binary_cnn, build_tutorial_cnn
from components.records.splits import Channels
from components.records.training import Network
from tests.unit.models.test_small_networks import BUILDERS

pytestmark = pytest.mark.usefixtures("single_thread")


def describe(architecture: str, height: int, width: int, channels: int, classes: int) -> Network:
    return Network(
        architecture=architecture,
        width=None,
        shape=(height, width, channels),
        classes=[str(n) for n in range(classes)],
        channels=Channels(mean=[100.0] * channels, std=[50.0] * channels),
    )


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        ("mnist_cnn", 1_199_882),
        ("tutorial_cnn", 93_322),
        ("simple_cnn", 34_826),
        ("unpooled_cnn", 203_434),
        ("lstm", 82_186),
        ("attention", 342_490),
    ],
)
def test_parameter_counts_for_28x28x1_and_ten_classes(architecture: str, parameters: int) -> None:
    module = BUILDERS[architecture](describe(architecture, 28, 28, 1, 10))
    assert count_parameters(module) == parameters


def test_parameter_count_of_the_network_with_one_logit() -> None:
    assert count_parameters(build_binary_cnn(describe("binary_cnn", 64, 64, 3, 2))) == 176_225


@pytest.mark.parametrize(
    ("architecture", "channels", "pools", "dropouts"),
    [
        ("mnist_cnn", [32, 64], 1, [0.25, 0.5]),
        ("tutorial_cnn", [32, 64, 64], 2, []),
        ("binary_cnn", [32, 32, 64], 3, [0.5]),
        ("simple_cnn", [32, 64], 2, [0.5]),
        ("unpooled_cnn", [64, 32], 0, []),
    ],
)
def test_layers_are_those_of_the_original(
    architecture: str, channels: list[int], pools: int, dropouts: list[float]
) -> None:
    layers = list(BUILDERS[architecture](describe(architecture, 28, 28, 1, 2)).children())
    assert [m.out_channels for m in layers if isinstance(m, nn.Conv2d)] == channels
    assert sum(isinstance(m, nn.MaxPool2d) for m in layers) == pools
    assert [m.p for m in layers if isinstance(m, nn.Dropout)] == dropouts
    linear = sum(isinstance(m, nn.Linear) for m in layers)
    assert sum(isinstance(m, nn.ReLU) for m in layers) == len(channels) + linear - 1


@pytest.mark.parametrize(
    ("architecture", "smallest"),
    [
        ("mnist_cnn", 6),
        ("tutorial_cnn", 18),
        ("binary_cnn", 22),
        ("simple_cnn", 10),
        ("unpooled_cnn", 5),
        ("attention", 8),
    ],
)
def test_images_that_are_too_small_are_refused_with_the_smallest_size(
    architecture: str, smallest: int
) -> None:
    build = BUILDERS[architecture]
    module = build(describe(architecture, smallest, smallest + 13, 1, 2)).eval()
    assert module(torch.zeros(2, 1, smallest, smallest + 13)).shape == (2, 2)
    for height, width in ((smallest - 1, 64), (64, smallest - 1)):
        with pytest.raises(UserError, match=f"{height} x {width} .* at least {smallest};"):
            build(describe(architecture, height, width, 1, 2))


def test_cross_entropy_of_one_logit_is_its_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    network = build_binary_cnn(describe("binary_cnn", 64, 64, 3, 2)).double().eval()
    logits = network(20 * torch.randn(8, 3, 64, 64, dtype=torch.float64))
    labels = torch.arange(8) % 2
    z = logits[:, 1]
    assert not logits[:, 0].any()
    assert z.std() > 0.1
    cross_entropy = F.cross_entropy(logits, labels)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(cross_entropy, parameters, retain_graph=True)
    for binary in (
        F.binary_cross_entropy_with_logits(z, labels.double()),
        F.binary_cross_entropy(z.sigmoid(), labels.double()),
    ):
        torch.testing.assert_close(cross_entropy, binary, rtol=1e-10, atol=1e-12)
        expected = torch.autograd.grad(binary, parameters, retain_graph=True)
        torch.testing.assert_close(gradients, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("classes", [1, 3, 10])
def test_one_logit_is_refused_for_other_numbers_of_classes(classes: int) -> None:
    with pytest.raises(UserError, match=f"two classes; the data have {classes}.*tutorial_cnn"):
        build_binary_cnn(describe("binary_cnn", 64, 64, 3, classes))
    assert build_tutorial_cnn(describe("tutorial_cnn", 64, 64, 3, classes))


def test_dropout_draws_from_the_generator_that_training_seeds() -> None:
    network = build_binary_cnn(describe("binary_cnn", 64, 64, 3, 2)).train()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def compute(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        logits: torch.Tensor = network(images)
        return logits

    assert torch.equal(compute(1), compute(1))
    assert not torch.equal(compute(1), compute(2))
