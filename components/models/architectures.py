"""Table of architectures.

To add one: write its builder, add it to `BUILDERS` and to `components.params.Architecture`, and
give it an entry in `params.yaml`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.errors import UserError
from components.models.classifier import Classifier
from components.models.cnn import build_cnn
from components.models.resnet import Builder, make_cifar_builder, make_torchvision_builder
from components.records.training import Network

BUILDERS: dict[str, Builder] = {
    "cnn": build_cnn,
    "resnet14": make_cifar_builder(blocks=2),
    "resnet20": make_cifar_builder(blocks=3),
    "resnet18": make_torchvision_builder("resnet18"),
    "resnet34": make_torchvision_builder("resnet34"),
    "resnet50": make_torchvision_builder("resnet50"),
}
"""Builders of all architectures."""


def build(network: Network) -> Classifier:
    """Build the module that `network` describes.

    The weights are initialised from torch's global random generator.
    """
    builder = BUILDERS[network.architecture]
    inner = builder(network.shape[2], len(network.classes), network.width, network.stem)
    return Classifier(inner, network.channels.mean, network.channels.std, network.mirror)


def restore(network: Network, state: dict[str, Tensor]) -> Classifier:
    """Build the module that `network` describes, with the given weights.

    The tensors are compared with the description before memory is taken for the module.

    Raises:
        UserError: The architecture is unknown, or the tensors are not those of the network.
    """
    if network.architecture not in BUILDERS:
        raise UserError(
            f"the architecture {network.architecture!r} is unknown to this version of Kiln; known: "
            f"{', '.join(BUILDERS)}; load the model where it was trained, or upgrade"
        )
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
