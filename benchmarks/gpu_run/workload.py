"""The work of one training step, shared by all implementations: data, network and optimiser."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_run.cases import StepCase, make_data
from components.data.format.images import Images
from components.data.loading.image_stores import InMemoryImages
from components.models.architectures import build
from components.params import Recipe
from components.records.training import Network
from components.training.precision import autocast

LEARNING_RATE = 0.01
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


class Workload:
    """The data of one case on the device, shared by all implementations."""

    def __init__(self, case: StepCase, device: torch.device) -> None:
        self.case = case
        self.device = device
        # Processors without instructions for bfloat16 are slow at it.
        self.precision = "bf16" if device.type == "cuda" else "fp32"
        self.network: Network
        self.images: Images
        self.recipe: Recipe
        self.network, self.images, self.recipe = make_data(case)
        self.store = InMemoryImages(self.images, device)
        self.batches = DeviceBatches(self)

    def autocast(self) -> torch.autocast:
        """Return a context manager that computes in the precision of the case."""
        return autocast(self.device, self.precision)


class DeviceBatches:
    """Random batches, cropped, flipped and normalised on the device without synchronisation.

    One gather takes, crops and flips the images. It reads a padded copy of the whole set.
    """

    def __init__(self, workload: Workload) -> None:
        case = workload.case
        device = workload.device
        self.batch = case.batch
        self.side = case.side
        self.padding = case.crop_padding
        pixels = torch.from_numpy(workload.images.pixels).to(device)
        self.pixels = F.pad(pixels, (0, 0) + (self.padding,) * 4) if self.padding else pixels
        self.labels = torch.from_numpy(workload.images.labels).to(device)
        channels = workload.network.channels
        mean = torch.tensor(channels.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(channels.std, device=device).view(1, -1, 1, 1)
        self.dtype = torch.bfloat16 if workload.precision == "bf16" else torch.float32
        self.scale = (1 / std).to(self.dtype)
        self.offset = (-mean / std).to(self.dtype)
        self.positions = torch.arange(case.side, device=device)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return normalised images `(B, C, H, W)`, channels-last, and their labels `int64 (B,)`."""
        device = self.pixels.device
        rows = torch.randint(len(self.pixels), (self.batch,), device=device)
        flip = torch.rand(self.batch, 1, device=device) < 0.5
        if self.padding:
            shifts = torch.randint(2 * self.padding + 1, (2, self.batch, 1), device=device)
            x = torch.where(flip, self.side - 1 - self.positions, self.positions) + shifts[0]
            y = self.positions + shifts[1]
            images = self.pixels[rows[:, None, None], y[:, :, None], x[:, None, :]]
        else:
            images = self.pixels[rows]
            images = torch.where(flip[:, :, None, None], images.flip(2), images)
        # Whole numbers up to 256 are exact in bfloat16.
        floats = images.permute(0, 3, 1, 2).to(self.dtype)
        return torch.addcmul(self.offset, floats, self.scale), self.labels[rows]


class MeanLoss:
    """A running mean on the device."""

    def __init__(self, device: torch.device) -> None:
        self.total = torch.zeros((), device=device)
        self.count = 0

    def add(self, loss: Tensor) -> None:
        self.total += loss.detach()
        self.count += 1

    def read(self) -> float:
        """Return the mean since the last call, and begin anew."""
        mean = float(self.total) / max(1, self.count)
        self.total.zero_()
        self.count = 0
        return mean


def build_network(workload: Workload) -> nn.Module:
    """Build the bare network: normalised images to logits."""
    torch.manual_seed(0)
    network: nn.Module = build(workload.network).network
    return prepare_network(network, workload.device)


def prepare_network(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to the device in channels-last layout, for training."""
    return network.to(device).to(memory_format=torch.channels_last).train()


def build_sgd(model: nn.Module, *, fused: bool | None = None) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(),
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=WEIGHT_DECAY,
        fused=fused,
    )
