"""Table of architectures.

To add one: write its builder, add it to `BUILDERS` and to `components.params.Architecture`, and
give it an entry in `params.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from components.models.classifier import Classifier
from components.models.cnn import build_cnn
from components.models.resnet import build_resnet20, make_torchvision_builder
from components.params.base import STEM_ARCHITECTURES
from components.records.training import Network

Builder = Callable[[int, int, int | None], nn.Module]
"""Arguments: number of input channels, number of classes, and width of the first stage in
channels (`None`: the default of the architecture)."""

BUILDERS: dict[str, Builder] = {
    "cnn": build_cnn,
    "resnet20": build_resnet20,
    "resnet18": make_torchvision_builder("resnet18", "cifar"),
    "resnet34": make_torchvision_builder("resnet34", "cifar"),
    "resnet50": make_torchvision_builder("resnet50", "cifar"),
}
"""Builders of all architectures, for small images."""
IMAGENET_STEM_BUILDERS: dict[str, Builder] = {
    name: make_torchvision_builder(name, "imagenet") for name in STEM_ARCHITECTURES
}
"""Builders for large images (`stem: imagenet`)."""


def build(network: Network) -> Classifier:
    """Build the module that `network` describes.

    The weights are initialised from torch's global random generator.
    """
    builders = IMAGENET_STEM_BUILDERS if network.stem == "imagenet" else BUILDERS
    channels = network.shape[2]
    inner = builders[network.architecture](channels, len(network.classes), network.width)
    return Classifier(inner, network.channels.mean, network.channels.std, network.mirror)
