"""Table of Kiln's own architectures, and the way from a description to a module.

To add one, write its builder and add it to `BUILDERS`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.errors import UserError
from components.models.attention import build_attention
from components.models.classic import (
    build_binary_cnn,
    build_mnist_cnn,
    build_simple_cnn,
    build_tutorial_cnn,
    build_unpooled_cnn,
)
from components.models.classifier import Classifier
from components.models.cnn import build_cnn
from components.models.library import build_from_library, check_size, check_train_size
from components.models.lstm import build_lstm
from components.models.resnet import Builder, make_cifar_builder, make_torchvision_builder
from components.records.training import Network

BUILDERS: dict[str, Builder] = {
    "cnn": build_cnn,
    "resnet14": make_cifar_builder(blocks=2),
    "resnet20": make_cifar_builder(blocks=3),
    "resnet32": make_cifar_builder(blocks=5),
    "resnet44": make_cifar_builder(blocks=7),
    "resnet56": make_cifar_builder(blocks=9),
    "resnet18": make_torchvision_builder("resnet18"),
    "resnet34": make_torchvision_builder("resnet34"),
    "resnet50": make_torchvision_builder("resnet50"),
    "mnist_cnn": build_mnist_cnn,
    "tutorial_cnn": build_tutorial_cnn,
    "binary_cnn": build_binary_cnn,
    "simple_cnn": build_simple_cnn,
    "unpooled_cnn": build_unpooled_cnn,
    "lstm": build_lstm,
    "attention": build_attention,
}
"""Builders of Kiln's own architectures. Libraries have the others (`components.models.library`)."""


def build(network: Network) -> Classifier:
    """Build the module that `network` describes.

    The weights are initialised from torch's global random generator.

    Raises:
        UserError: There is no such architecture, or it does not take its options.
    """
    builder = BUILDERS.get(network.architecture, build_from_library)
    return Classifier(builder(network), network.channels.mean, network.channels.std, network.mirror)


def restore(network: Network, state: dict[str, Tensor]) -> Classifier:
    """Build the module that `network` describes, with the given weights.

    The tensors are compared with the description before memory is taken for the module.

    Raises:
        UserError: There is no such architecture here, or the tensors are not those of the network.
    """
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in build(network).state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in state.items()}:
        raise UserError(
            f"the weights are not those of the {network.architecture} that they describe: "
            "tensors are missing, are too many, or have other shapes; train it again, or restore "
            "the file with `dvc checkout`"
        )
    module = build(network)
    module.load_state_dict(state)
    return module


def check(network: Network, train_sides: tuple[int, int] | None = None) -> None:
    """Check that a network can be built and takes images of its size.

    Kiln's own architectures take every size that their builder does not refuse.

    Args:
        network: Its description.
        train_sides: Height and width of the images that it is trained on; None is its own size.

    Raises:
        UserError: It cannot. The message says what would work.
    """
    own = network.architecture in BUILDERS
    with torch.device("meta"):
        module = build(network).network
    if not own:
        check_size(module, network)
    if train_sides:
        # torch has no LSTM for the meta device. Kiln's own networks are small.
        module = build(network).network if own else module
        check_train_size(module, network, *train_sides, device="cpu" if own else "meta")
