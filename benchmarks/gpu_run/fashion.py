"""Part `fashion`: the time to 93 % and 94 % of Fashion-MNIST's test images, by Kiln's own loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_run.parts import choose_device, parse_part_arguments
from benchmarks.gpu_run.results import Results
from components.data.format.images import Images
from components.data.loading.image_stores import InMemoryImages
from components.data.sources.idx import load
from components.models.architectures import build
from components.params import Recipe
from components.paths import ROOT
from components.records.splits import Channels
from components.records.training import Network
from components.training.callback import NullCallback
from components.training.config import LoopConfig
from components.training.events import EpochFinished, TrainingEvent
from components.training.loop import train
from components.training.precision import synchronize
from components.training.validation import validate

_RAW = ROOT / "data" / "raw" / "fashion-mnist"
_VALIDATION_ROWS = 6000
_SMOKE_ROWS = 256
_LONGEST_S = 60.0
"""No further recipe is begun after that."""

_COMMON: dict[str, Any] = {
    "mirror": True,
    "learning_rate": 0.3,
    "muon": {"learning_rate": 0.06},
    "weight_decay": 1e-3,
    "warmup_epochs": 0.5,
    "label_smoothing": 0.05,
    "ema_decay": 0.99,
}
_FLIP = {"flip": 0.5}
_STRONG = {"flip": 0.5, "crop_padding": 2, "erase": 8}
_BATCH = 512
"""Images of a global batch, which the GPU computes as one."""
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "cnn, 10 epochs": {"architecture": "cnn", "width": 64, "epochs": 10, "augment": _FLIP},
    "cnn of width 128, 20 epochs": {
        "architecture": "cnn",
        "width": 128,
        "epochs": 20,
        "augment": _STRONG,
    },
    "resnet20, 10 epochs": {
        "architecture": "resnet20",
        "width": 16,
        "epochs": 10,
        "augment": _FLIP,
    },
    "resnet20 of width 64, 20 epochs": {
        "architecture": "resnet20",
        "width": 64,
        "epochs": 20,
        "augment": _STRONG,
    },
    "resnet18, 16 epochs": {"architecture": "resnet18", "epochs": 16, "augment": _STRONG},
}
"""Values of each recipe beside the common ones."""


class _EpochTimes(NullCallback):
    """Notes when each epoch ended, its rate and its validation."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.epochs: list[list[float]] = []

    def on_event(self, event: TrainingEvent) -> None:
        if isinstance(event, EpochFinished):
            seconds = round(time.perf_counter() - self.start, 2)
            top1 = round(event.row.val_top1, 4)
            self.epochs.append([seconds, round(event.images_per_s), top1])


def main() -> None:
    out, smoke = parse_part_arguments()
    results = Results(out, "fashion")
    device = choose_device()
    splits = _load_splits(smoke)
    start = time.perf_counter()
    for name, recipe in _list_recipes(smoke):
        if time.perf_counter() - start > _LONGEST_S:
            results.add(name, skipped="no time was left")
            continue
        with results.attempt(name):
            _train_recipe(results, name, recipe, splits, device)


def _list_recipes(smoke: bool) -> Iterator[tuple[str, Recipe]]:
    for name, values in _ARCHITECTURES.items():
        shortened: dict[str, Any] = {}
        if smoke:
            shortened = {"epochs": 1, "ema_decay": None}
            if values["architecture"] != "resnet18":
                shortened["width"] = 4
        yield name, Recipe.model_validate(_COMMON | values | shortened)


@dataclass(frozen=True)
class _Splits:
    train: Images
    val: Images
    test: Images
    classes: list[str]


def _load_splits(smoke: bool) -> _Splits:
    """Load the training images less the last 6,000, these for validation, and the test images."""
    all_images, test, classes = load(_RAW)
    assert test is not None
    rows = np.arange(len(all_images))
    train_rows, val_rows = rows[:-_VALIDATION_ROWS], rows[-_VALIDATION_ROWS:]
    if smoke:
        train_rows, val_rows = train_rows[:_SMOKE_ROWS], val_rows[:_SMOKE_ROWS]
        test = test.take(np.arange(_SMOKE_ROWS))
    return _Splits(all_images.take(train_rows), all_images.take(val_rows), test, classes)


def _train_recipe(
    results: Results,
    name: str,
    recipe: Recipe,
    splits: _Splits,
    device: torch.device,
) -> None:
    """Train one recipe, with validation after each epoch, and measure the test images once."""
    pixels = splits.train.pixels.astype(np.float32)
    network = Network(
        architecture=recipe.architecture,
        width=recipe.width,
        shape=splits.train.pixels.shape[1:],
        classes=splits.classes,
        channels=Channels(mean=[float(pixels.mean())], std=[float(pixels.std())]),
        mirror=recipe.mirror,
        stem="cifar",
    )
    synchronize(device)
    callback = _EpochTimes()
    config = LoopConfig(
        network=network,
        train=InMemoryImages(splits.train, device),
        val=InMemoryImages(splits.val, device),
        recipe=recipe,
        global_batch=_BATCH,
        micro_batches=1,
        seed=0,
        device=device,
        callback=callback,
    )
    outcome = train(config)
    seconds = time.perf_counter() - callback.start
    model = build(network)
    model.load_state_dict(outcome.weights)
    model = model.to(device).to(memory_format=torch.channels_last)
    _, test_top1 = validate(model, InMemoryImages(splits.test, device), device)
    assert outcome.best is not None
    results.add(
        name,
        test_top1=test_top1,
        val_top1=outcome.best.val_top1,
        training_s=round(seconds, 2),
        precision=outcome.precision,
        parameters=outcome.parameters,
        global_batch=_BATCH,
        images_per_s_last=callback.epochs[-1][1],
        seconds_rate_val_top1_by_epoch=callback.epochs,
    )


if __name__ == "__main__":
    main()
