"""Small trainings on stripes, and the networks and recipes for them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from components.data.format.images import Images
from components.data.loading.image_stores import ImageStore, InMemoryImages
from components.models import weights
from components.models.architectures import build
from components.models.classifier import Classifier
from components.params import Recipe
from components.params.base import Stem
from components.records.splits import Channels
from components.records.training import Network
from components.training import loop
from components.training.callback import NullCallback
from components.training.config import LoopConfig
from components.training.process_settings import prepare_process
from components.training.state import TrainState
from components.training.stepper import Stepper

CPU = torch.device("cpu")
NUM_CLASSES = 10
RECIPE: dict[str, Any] = {"learning_rate": 0.05, "warmup_epochs": 0.5}
MIXING: dict[str, Any] = {
    "ema_decay": 0.9,
    "clip_gradient_norm": 0.5,
    "augment": {"flip": 0.5, "crop_padding": 2, "erase": 6, "mixup": 0.2, "cutmix": 1.0},
}
MUON: dict[str, Any] = {"muon": {"learning_rate": 0.05}, "ema_decay": 0.9}
MUON_CLIPPED: dict[str, Any] = MUON | {"clip_gradient_norm": 0.5}
ADAMW: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 0.002, "l1_penalty": 1e-5}
RMSPROP: dict[str, Any] = {"optimizer": "rmsprop", "learning_rate": 0.0005, "schedule": "step"}


@dataclass(frozen=True)
class Spec:
    """A network and its square images of `side` pixels."""

    architecture: str
    side: int
    channels: int
    width: int | None = None
    stem: Stem = "cifar"


SPECS = {
    "cnn": Spec("cnn", 28, 1, width=8),
    "resnet20": Spec("resnet20", 28, 1, width=8),
    "resnet18": Spec("resnet18", 32, 3),
    # Its stem has a max-pooling of overlapping windows.
    "resnet18-imagenet": Spec("resnet18", 64, 3, stem="imagenet"),
}


@functools.lru_cache(maxsize=16)
def make_images(rows: int, side: int, channels: int, seed: int) -> Images:
    """Return noisy stripes, whose direction depends on the class and whose phase is random."""
    random = np.random.default_rng(seed)
    labels = random.integers(NUM_CLASSES, size=rows)
    angle = (np.pi * labels / NUM_CLASSES)[:, None, None]
    y, x = np.mgrid[:side, :side]
    phase = random.uniform(0, 2 * np.pi, (rows, 1, 1))
    stripes = np.sin(1.2 * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    noise = random.normal(0, 60, (rows, side, side, channels))
    pixels = (128 + 40 * stripes[..., None] + noise).clip(0, 255).astype(np.uint8)
    return Images(pixels, labels.astype(np.int64), [f"{seed}/{n}" for n in range(rows)])


@dataclass(frozen=True)
class Trial:
    """A small training on any device. The last batch of each of its epochs is short.

    `steps` is the number of steps in an epoch and `recipe` has values that replace those of
    `RECIPE`. `val_rows` is the number of validation images.
    """

    spec: Spec
    batch: int
    steps: int
    epochs: int = 2
    micro_batches: int = 1
    val_rows: int = 100
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.steps * self.batch - self.batch // 4

    @property
    def network(self) -> Network:
        spec = self.spec
        return Network(
            architecture=spec.architecture,
            width=spec.width,
            shape=(spec.side, spec.side, spec.channels),
            classes=[str(n) for n in range(NUM_CLASSES)],
            channels=Channels(mean=[128.0] * spec.channels, std=[66.0] * spec.channels),
            stem=spec.stem,
        )

    def make_images(self, rows: int, seed: int = 0) -> Images:
        return make_images(rows, self.spec.side, self.spec.channels, seed)

    def make_config(
        self,
        device: torch.device,
        callback: NullCallback | None = None,
        store: ImageStore | None = None,
        *,
        cuda_graphs: bool = True,
    ) -> LoopConfig:
        """Return the inputs of the loop. Without `store` the images are in the device's memory."""
        spec = self.spec
        values = {"architecture": spec.architecture, "width": spec.width, "epochs": self.epochs}
        return LoopConfig(
            network=self.network,
            train=store or InMemoryImages(self.make_images(self.rows), device),
            val=InMemoryImages(self.make_images(self.val_rows, seed=1), device),
            recipe=Recipe.model_validate(RECIPE | self.recipe | values),
            global_batch=self.batch,
            micro_batches=self.micro_batches,
            seed=5,
            device=device,
            cuda_graphs=cuda_graphs,
            callback=callback or NullCallback(),
        )

    def train(
        self,
        device: torch.device,
        precision: str,
        *,
        callback: NullCallback | None = None,
        resume: dict[str, Any] | None = None,
        store: ImageStore | None = None,
        cuda_graphs: bool = True,
    ) -> loop.TrainingOutcome:
        config = self.make_config(device, callback, store, cuda_graphs=cuda_graphs)
        return loop.train(config, precision=precision, resume=resume)

    def make_stepper(self, device: torch.device, precision: str) -> Stepper:
        """Return a stepper as `components.training.loop.train` makes it."""
        config = self.make_config(device)
        model = self.build_model(device)
        return Stepper(config, TrainState(model, config.recipe, self.steps, precision))

    def build_model(self, device: torch.device) -> Classifier:
        prepare_process(device)
        torch.manual_seed(5)
        return build(self.network).to(device).to(memory_format=torch.channels_last)

    def digest(self, outcome: loop.TrainingOutcome) -> str:
        return weights.sha256(self.network, outcome.weights)
