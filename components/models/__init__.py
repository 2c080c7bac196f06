"""The table of architectures, and the module that is trained, exported and served.

To add one: write its builder, name it below and in `components.params.Architecture`, give it an entry in `params.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from components.models import cnn, resnet
from components.models.classifier import Classifier
from components.records.training import Network

# Builders take the number of input channels, of classes, and the width of the first stage (None: the architecture's own).
BUILDERS: dict[str, Callable[[int, int, int | None], nn.Module]] = {
    "cnn": cnn.build,
    "resnet20": resnet.build_resnet20,
    "resnet18": resnet.build_torchvision("resnet18"),
    "resnet34": resnet.build_torchvision("resnet34"),
    "resnet50": resnet.build_torchvision("resnet50"),
}
# The same for large images (`stem: imagenet`).
LARGE = {name: resnet.build_torchvision(name, "imagenet") for name in ("resnet18", "resnet34", "resnet50")}


def build(network: Network) -> Classifier:
    """The module that `network` describes, freshly initialised from torch's global random state."""
    builders = LARGE if network.stem == "imagenet" else BUILDERS
    inner = builders[network.architecture](network.shape[2], len(network.classes), network.width)
    return Classifier(inner, network.channels.mean, network.channels.std, network.mirror)
