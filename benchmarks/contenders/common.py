"""What contenders share, so that they differ in nothing but how they train."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.data.format.shards import read_manifest, read_split
from components.models import BUILDERS
from components.params import Recipe
from components.records.training import Network
from components.training.optimizers import build_optimizer, build_schedule
from components.training.plan import describe


@dataclass(frozen=True)
class Work:
    """One training, the same for all. `data` has the splits; `global_batch` is over `processes` of one thread each."""

    data: str
    architecture: str
    epochs: int
    global_batch: int
    learning_rate: float
    processes: int = 2
    width: int | None = None
    seed: int = 0

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)))
        return path

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

    def network(self) -> Network:
        train, val = (read_manifest(Path(self.data) / split) for split in ("train", "val"))
        return describe(self.recipe, train, val)

    def model(self) -> nn.Module:
        """The bare network, from normalised `float (N, C, H, W)` to logits."""
        torch.manual_seed(self.seed)
        network = self.network()
        return BUILDERS[self.architecture](network.shape[2], len(network.classes), self.width)

    def dataset(self, split: str) -> TensorDataset:
        """`float (N, C, H, W)`, normalised once, and labels: the fastest that a DataLoader over arrays is given."""
        images, _ = read_split(Path(self.data) / split)
        channels = self.network().channels
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (channels.mean, channels.std))
        pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).float()
        return TensorDataset(((pixels - mean) / std).contiguous(), torch.from_numpy(images.labels))

    def steps_per_epoch(self) -> int:
        return -(-read_manifest(Path(self.data) / "train").rows // self.global_batch)

    def optimiser(self, model: nn.Module) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.LambdaLR]:
        """SGD with Nesterov momentum, warm-up and cosine: Kiln's own, for everyone."""
        optimizer = build_optimizer(model, self.recipe)
        return optimizer, build_schedule(optimizer, self.recipe, self.steps_per_epoch())


def arguments() -> tuple[Work, Path]:
    """From `WORK.json RESULT.json SEED`, the first three words."""
    work = json.loads(Path(sys.argv[1]).read_text())
    return Work(**{**work, "seed": int(sys.argv[3])}), Path(sys.argv[2])


def flipped(images: Tensor) -> Tensor:
    """Half of a batch `(N, C, H, W)`, each image by its own coin."""
    coins = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(coins, images.flip(-1), images)


class Rate:
    """Images per second of the steps of all epochs but the first, which pays for what happens once."""

    def __init__(self, rows: int) -> None:
        self.rows, self.seconds = rows, [0.0] * 0

    def begin(self) -> None:
        self.begun = time.perf_counter()

    def end(self) -> None:
        self.seconds.append(time.perf_counter() - self.begun)

    def value(self) -> float:
        return steady(self.rows, self.seconds)


def steady(rows: int, seconds: list[float]) -> float:
    later = seconds[1:] or seconds
    return rows * len(later) / sum(later)


@torch.inference_mode()
def top1(model: nn.Module, work: Work) -> float:
    """On the test split, in fp32, of a bare network."""
    images, labels = work.dataset("test").tensors
    model.eval()
    correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(500), labels.split(500), strict=True))
    return correct / len(labels)


def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(flipped(images)), labels)


TRAIN = "-m pipelines.train --model cnn --train data/prepared/train --val data/prepared/val --out models/cnn"


def importing(*folders: Path) -> dict[str, str]:
    """The environment of a process that imports from these folders first."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])}


def plain_epoch(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """The steps that everyone writes."""
    for images, labels in loader:
        optimizer.zero_grad()
        loss_of(model, images, labels).backward()
        optimizer.step()
        schedule.step()


def report(result: Path, values: dict[str, float], notes: list[str] | None = None) -> None:
    """Leaves figures for the harness."""
    payload: dict[str, Any] = {"values": values, "notes": notes or []}
    result.write_text(json.dumps(payload))
