"""Residual networks: those for CIFAR (arXiv:1512.03385, section 4.2) and torchvision's."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from components.records.training import Network

DEFAULT_WIDTH = 16


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters.

    The shortcut is the paper's option A: it subsamples by `stride` and pads new channels with
    zeros.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.stride != 1 or self.new_channels:
            before = self.new_channels // 2
            after = self.new_channels - before
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, after))
        return F.relu(y + x, inplace=True)


Builder = Callable[[Network], nn.Module]
"""Builds the network of a description, with random weights. The module maps `float (N, C, H, W)` to
logits `(N, K)`."""


def make_cifar_builder(blocks: int) -> Builder:
    """Return the builder of a network of three stages of `blocks` blocks: 6 * `blocks` + 2 layers.

    With three blocks it is ResNet-20, which has 269,722 parameters at width 16 (the default) with
    three channels and ten classes.
    """

    def build_cifar_resnet(network: Network) -> nn.Module:
        w = network.width or DEFAULT_WIDTH
        first = _make_first_convolution(network, w)
        layers = [first, nn.BatchNorm2d(w), nn.ReLU(True)]
        inputs = w
        for stage in range(3):
            for block in range(blocks):
                layers.append(Block(inputs, w << stage, stride=2 if stage and not block else 1))
                inputs = w << stage
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, len(network.classes))]
        net = nn.Sequential(*layers, *head)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return net

    return build_cifar_resnet


def _make_first_convolution(network: Network, outputs: int) -> nn.Conv2d:
    """Return the convolution of a stem. It divides height and width by its stride."""
    kernel, stride = {"cifar": (3, 1), "half": (4, 2), "imagenet": (7, 2)}[network.stem]
    padding = (kernel - 1) // 2
    return nn.Conv2d(network.shape[2], outputs, kernel, stride, padding, bias=False)


def make_torchvision_builder(name: str) -> Builder:
    """Return the builder of torchvision's network `name`, which ignores its width.

    With the `imagenet` stem it is torchvision's network (7x7, stride 2, max-pooling), which reduces
    height and width to a quarter. The stems `cifar` (3x3, stride 1) and `half` (4x4, stride 2) have
    no max-pooling.
    """

    def build_torchvision(network: Network) -> nn.Module:
        # Imported here because torchvision costs seconds, and only these architectures need it.
        import torchvision.models

        net: nn.Module = getattr(torchvision.models, name)(
            num_classes=len(network.classes), zero_init_residual=True
        )
        net.conv1 = _make_first_convolution(network, 64)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        if network.stem != "imagenet":
            net.maxpool = nn.Identity()
        return net

    return build_torchvision
