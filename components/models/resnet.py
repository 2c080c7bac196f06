"""Residual networks: ResNet-20 for CIFAR (arXiv:1512.03385, section 4.2) and torchvision's."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from components.params.base import Stem

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


def build_resnet20(channels: int, classes: int, width: int | None) -> nn.Module:
    """Build a network of 20 weighted layers: three stages of three blocks each.

    It has 269,722 parameters at width 16 (the default) with three channels and ten classes. It
    maps `float (N, channels, H, W)` to logits `(N, classes)`.
    """
    w = width or DEFAULT_WIDTH
    layers: list[nn.Module] = [
        nn.Conv2d(channels, w, 3, padding=1, bias=False),
        nn.BatchNorm2d(w),
        nn.ReLU(inplace=True),
    ]
    inputs = w
    for stage in range(3):
        for block in range(3):
            layers.append(Block(inputs, w << stage, stride=2 if stage and not block else 1))
            inputs = w << stage
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def make_torchvision_builder(name: str, stem: Stem) -> Callable[[int, int, int | None], nn.Module]:
    """Return the builder of torchvision's network `name` with a stem.

    The `imagenet` stem is torchvision's (7x7, stride 2, max-pooling) and reduces height and width
    to a quarter. The `cifar` stem (3x3, stride 1, no max-pooling: arXiv:1512.03385, section 4.2)
    keeps them, for small images. The builder ignores its width.
    """

    def build_torchvision(channels: int, classes: int, _: int | None) -> nn.Module:
        # Imported here because torchvision costs seconds, and only these architectures need it.
        import torchvision.models

        net: nn.Module = getattr(torchvision.models, name)(
            num_classes=classes, zero_init_residual=True
        )
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        net.conv1 = nn.Conv2d(channels, 64, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        if stem == "cifar":
            net.maxpool = nn.Identity()
        return net

    return build_torchvision
