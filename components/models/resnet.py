"""Residual networks: the paper's CIFAR ResNet-20 (arXiv:1512.03385, section 4.2), and torchvision's for larger machines."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 16


class Block(nn.Module):
    """Two 3x3 convolutions around a parameter-free shortcut (the paper's option A: stride and zero-padded channels)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.stride != 1 or self.extra:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return F.relu(y + x, inplace=True)


def build_resnet20(channels: int, classes: int, width: int | None) -> nn.Module:
    """20 weighted layers in three stages of three blocks; 269,722 parameters at width 16, three channels, ten classes.

    Maps `float (N, channels, H, W)` to logits `(N, classes)`.
    """
    w = width or WIDTH
    layers: list[nn.Module] = [nn.Conv2d(channels, w, 3, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU(inplace=True)]
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


def build_torchvision(name: str, stem: str = "cifar") -> Callable[[int, int, int | None], nn.Module]:
    """torchvision's network of that name. Its stem (7x7, stride 2, max-pool) leaves a quarter of height and width, the one for
    small images (3x3, stride 1, no max-pool: arXiv:1512.03385, section 4.2) all of it."""

    def build(channels: int, classes: int, _: int | None) -> nn.Module:
        import torchvision.models  # costs seconds, and only these architectures need it

        net: nn.Module = getattr(torchvision.models, name)(num_classes=classes, zero_init_residual=True)
        side, stride = (7, 2) if stem == "imagenet" else (3, 1)
        net.conv1 = nn.Conv2d(channels, 64, side, stride, side // 2, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        if stem == "cifar":
            net.maxpool = nn.Identity()
        return net

    return build
