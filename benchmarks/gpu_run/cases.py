"""Networks and sizes whose training step is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contenders.stepping import make_random_images
from components.data.format.images import Images
from components.models.architectures import build
from components.params import Recipe
from components.records.training import Network

MAX_CROPPED_SIDE = 32
"""Largest side of images that are cropped; larger ones are only flipped."""


@dataclass(frozen=True)
class StepCase:
    """One training step: network, image size in pixels, channels, batch and images of the set.

    `budget_s` is the time for all of its implementations. `memory_gib` is the memory of the device
    that they need together. With less, each is built and measured alone.
    """

    architecture: str
    side: int
    channels: int
    batch: int
    rows: int
    budget_s: float
    memory_gib: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.architecture} {self.side}x{self.side}x{self.channels}, batch {self.batch}"

    @property
    def crop_padding(self) -> int:
        return 4 if self.side <= MAX_CROPPED_SIDE else 0


CNN = StepCase("cnn", 28, 1, 1024, 65536, budget_s=24)
SMALL_CNN = StepCase("cnn", 28, 1, 128, 65536, budget_s=12)
RESNET18 = StepCase("resnet18", 32, 3, 1024, 65536, budget_s=28)
RESNET50 = StepCase("resnet50", 224, 3, 256, 4096, budget_s=42, memory_gib=120)
RESNET20 = StepCase("resnet20", 28, 1, 1024, 65536, budget_s=24)
SMALL_RESNET20 = StepCase("resnet20", 28, 1, 128, 65536, budget_s=12)
CASES = (CNN, SMALL_CNN, RESNET18, RESNET50, RESNET20, SMALL_RESNET20)
"""All cases, the most important first."""
SMOKE_CASES = (CNN, RESNET18, RESNET50)


def shrink(case: StepCase) -> StepCase:
    """Return the case of a smoke run, with few small images that keep the stem of the network."""
    side = 72 if case.side > MAX_CROPPED_SIDE else 12
    return replace(case, side=side, batch=case.batch // 512 + 2, rows=16)


def make_data(case: StepCase) -> tuple[Network, Images, Recipe]:
    """Make random images for a case, with a network and a recipe for them."""
    return make_random_images(
        case.architecture,
        case.side,
        case.rows,
        channels=case.channels,
        crop_padding=case.crop_padding,
    )


def count_flops(network: Network) -> float:
    """Return the operations of one image's forward and backward pass.

    A multiplication and its addition count as two.
    """
    model = build(network).train()
    images = torch.zeros(2, *network.shape, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return float(counter.get_total_flops() / len(images))
