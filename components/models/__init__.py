"""The table of architectures, and the module that is trained, exported and served.

To add one: write its builder, name it below and in `components.params.Architecture`, give it an entry in `params.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from components.artifacts import Manifest, Network
from components.errors import UserError
from components.models import cnn, resnet
from components.models.classifier import Classifier
from components.params import Recipe

# Builders take the number of input channels, of classes, and the width of the first stage (None: the architecture's own).
BUILDERS: dict[str, Callable[[int, int, int | None], nn.Module]] = {
    "cnn": cnn.build,
    "resnet20": resnet.build_resnet20,
    "resnet18": resnet.build_torchvision("resnet18"),
    "resnet34": resnet.build_torchvision("resnet34"),
    "resnet50": resnet.build_torchvision("resnet50"),
}


def build(network: Network) -> Classifier:
    """The module that `network` describes, freshly initialised from torch's global random state."""
    inner = BUILDERS[network.architecture](network.shape[2], len(network.classes), network.width)
    return Classifier(inner, network.channels.mean, network.channels.std)


def describe(recipe: Recipe, train: Manifest, val: Manifest) -> Network:
    """The network of a recipe for these data. Raises `UserError` if training and validation data do not fit each other."""
    if (train.shape, train.classes) != (val.shape, val.classes) or train.channels is None:
        raise UserError(
            f"training data {train.shape} with {len(train.classes)} classes and validation data {val.shape} with "
            f"{len(val.classes)} do not belong together; `dvc repro preprocess augment` makes both anew"
        )
    return Network(
        architecture=recipe.architecture, width=recipe.width, shape=train.shape, classes=train.classes, channels=train.channels
    )
