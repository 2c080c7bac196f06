"""Code that contenders share, so that they differ only in the way they train."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.model import CaseResult
from components.data.format.shards import read_manifest, read_split
from components.models.architectures import BUILDERS
from components.params import Recipe
from components.records.training import Network
from components.training.optimizers import build_optimizer
from components.training.plan import describe_network
from components.training.schedules import build_schedule


@dataclass(frozen=True)
class Workload:
    """One training, the same for every contender.

    `data` is a folder with the splits. `global_batch` is shared among `processes` of one thread
    each.
    """

    data: str
    architecture: str
    epochs: int
    global_batch: int
    learning_rate: float
    processes: int = 2
    width: int | None = None
    seed: int = 0

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Workload:
        return cls(**json.loads(path.read_text()))

    @property
    def recipe(self) -> Recipe:
        return Recipe.model_validate(
            {
                "architecture": self.architecture,
                "width": self.width,
                "epochs": self.epochs,
                "learning_rate": self.learning_rate,
                "weight_decay": 5e-4,
                "momentum": 0.9,
                "warmup_epochs": 0.5,
                "augment": {"flip": 0.5},
            }
        )

    @property
    def network(self) -> Network:
        train, val = (read_manifest(Path(self.data) / split) for split in ("train", "val"))
        return describe_network(self.recipe, train, val)

    @property
    def steps_per_epoch(self) -> int:
        return -(-read_manifest(Path(self.data) / "train").rows // self.global_batch)

    def build_model(self) -> nn.Module:
        """Build the bare network: normalised `float (N, C, H, W)` to logits."""
        torch.manual_seed(self.seed)
        return BUILDERS[self.architecture](self.network)

    def load_dataset(self, split: str) -> TensorDataset:
        """Load images as `float (N, C, H, W)`, normalised once, with their labels.

        No other input makes a DataLoader over arrays faster.
        """
        images, _ = read_split(Path(self.data) / split)
        channels = self.network.channels
        mean = torch.tensor(channels.mean).view(1, -1, 1, 1)
        std = torch.tensor(channels.std).view(1, -1, 1, 1)
        pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).float()
        return TensorDataset(((pixels - mean) / std).contiguous(), torch.from_numpy(images.labels))

    def build_optimizer(
        self, model: nn.Module
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        """Build Kiln's SGD with Nesterov momentum, and its schedule: warm-up and half cosine."""
        optimizer = build_optimizer(model, self.recipe)
        return optimizer, build_schedule(optimizer, self.recipe, self.steps_per_epoch)


def parse_arguments() -> tuple[Workload, Path]:
    """Return the workload, with its seed, and the result file: `WORKLOAD RESULT SEED`."""
    workload = Workload.read(Path(sys.argv[1]))
    return replace(workload, seed=int(sys.argv[3])), Path(sys.argv[2])


def write_result(path: Path, values: dict[str, float], notes: list[str] | None = None) -> None:
    """Write the result file for the harness."""
    path.write_text(json.dumps(asdict(CaseResult(values, notes or []))))


class EpochTimer:
    """Measures the rate of the training steps, epoch by epoch."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.seconds: list[float] = []
        self.started = 0.0

    def start(self) -> None:
        self.started = time.perf_counter()

    def stop(self) -> None:
        self.seconds.append(time.perf_counter() - self.started)

    def images_per_s(self) -> float:
        return steady_rate(self.rows, self.seconds)


def steady_rate(rows: int, seconds: list[float]) -> float:
    """Return the images per second of all epochs but the first, which includes one-time work.

    Args:
        rows: images of one epoch.
        seconds: duration of each epoch. If there is only one epoch, it counts.
    """
    later = seconds[1:] or seconds
    return rows * len(later) / sum(later)


def flip_randomly(images: Tensor) -> Tensor:
    """Flip each image of a batch `(N, C, H, W)` horizontally with probability 0.5."""
    flip = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(flip, images.flip(-1), images)


def compute_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of randomly flipped images."""
    return F.cross_entropy(model(flip_randomly(images)), labels)


def train_epoch(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Train one epoch with the usual PyTorch loop."""
    for images, labels in loader:
        optimizer.zero_grad()
        compute_loss(model, images, labels).backward()
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def evaluate_top1(model: nn.Module, workload: Workload) -> float:
    """Return the top-1 accuracy of a bare network on the test split, in fp32."""
    images, labels = workload.load_dataset("test").tensors
    model.eval()
    correct = 0
    for batch, targets in zip(images.split(500), labels.split(500), strict=True):
        correct += int((model(batch).argmax(1) == targets).sum())
    return correct / len(labels)
