"""Golden loss curves. `python -m tests.golden.curves` writes them anew.

A curve has 20 steps of one architecture in fp32 on one thread, on the first 1,280 images of
Fashion-MNIST, in global batches of 64 cut into two micro-batches. Processors round differently, so
the test compares with a tolerance. The learning rate is low, because at a higher one the
differences grow within these steps: ResNet-20's losses differ by 4 % between AVX2 and AVX-512 at a
rate of 0.05, and by 0.08 % at 0.003.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.data.format.images import Images
from components.data.format.shards import ChannelHistogram
from components.data.loading.image_stores import InMemoryImages
from components.data.sources.idx import load
from components.params import Recipe
from components.paths import ROOT
from components.records.training import Network
from components.training.callback import NullCallback
from components.training.config import LoopConfig
from components.training.loop import train

FILE = Path(__file__).with_name("losses.json")
ARCHITECTURES = ("cnn", "resnet20", "resnet18")
STEPS = 20
BATCH = 64


class LossRecorder(NullCallback):
    """Records the epoch's sum of losses after each step."""

    def __init__(self) -> None:
        self.sums = [0.0]

    def checkpoint_due(self, step: int) -> bool:
        return True

    def save_checkpoint(self, state: dict[str, Any], wait: bool) -> None:
        # The sum is 0 before the first step and again after the epoch.
        loss_sum = float(state["epoch_totals"][0])
        if loss_sum:
            self.sums.append(loss_sum)


def compute_curve(architecture: str) -> list[float]:
    """Return the mean training loss (nats) of each step."""
    images, _, classes = load(ROOT / "data" / "raw" / "fashion-mnist")
    recorder = LossRecorder()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = make_config(architecture, images.take(np.arange(STEPS * BATCH)), classes, recorder)
        train(config, precision="fp32")
    finally:
        torch.set_num_threads(threads)
    return [(after - before) / BATCH for before, after in pairwise(recorder.sums)]


def make_config(
    architecture: str, images: Images, classes: list[str], callback: LossRecorder
) -> LoopConfig:
    cpu = torch.device("cpu")
    histogram = ChannelHistogram(1)
    histogram.add(images.pixels)
    recipe = {
        "architecture": architecture,
        "epochs": 1,
        "learning_rate": 0.003,
        "warmup_epochs": 0.5,
        "augment": {"flip": 0.5, "crop_padding": 2, "erase": 4},
    }
    network = Network(
        architecture=architecture,
        width=None,
        shape=(28, 28, 1),
        classes=classes,
        channels=histogram.compute_statistics(),
    )
    return LoopConfig(
        network=network,
        train=InMemoryImages(images, cpu),
        val=InMemoryImages(images.take(np.arange(100)), cpu),
        recipe=Recipe.model_validate(recipe),
        global_batch=BATCH,
        micro_batches=2,
        seed=0,
        device=cpu,
        callback=callback,
    )


if __name__ == "__main__":
    curves = {name: [round(loss, 6) for loss in compute_curve(name)] for name in ARCHITECTURES}
    FILE.write_text(json.dumps(curves, indent=1) + "\n")
