"""Table of architectures.

To add one: write its builder, add it to `BUILDERS` and to `components.params.Architecture`, and
give it an entry in `params.yaml`.
"""

from __future__ import annotations

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
