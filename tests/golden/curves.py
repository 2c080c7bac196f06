"""Loss curves that a change of the code must not move: `python -m tests.golden.curves` writes them anew.

20 steps of each architecture in fp32 on one thread, on the first 1,280 images of Fashion-MNIST, in global batches of 64 cut
into two micro-batches. Other processors round differently, so that a test compares to a tolerance, not to the bit; and the
rate is low, or what is rounded grows within these steps (ResNet-20's losses at 0.05: 4 % between AVX2 and AVX-512, at 0.003:
0.08 %).
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.data.format.shards import ChannelCounts
from components.data.loading.image_stores import Resident
from components.data.sources.idx import load
from components.params import Recipe
from components.paths import ROOT
from components.records.training import Network
from components.training.callback import Surroundings
from components.training.loop import Run, train

FILE = Path(__file__).with_name("losses.json")
ARCHITECTURES = ("cnn", "resnet20", "resnet18")
STEPS, BATCH = 20, 64


def curve(architecture: str) -> list[float]:
    """Mean training loss (nats) of each step."""
    images, _, classes = load(ROOT / "data" / "raw" / "fashion-mnist")
    images = images.take(np.arange(STEPS * BATCH))
    counts = ChannelCounts(1)
    counts.add(images.pixels)
    recipe: dict[str, Any] = {"architecture": architecture, "epochs": 1, "learning_rate": 0.003, "warmup_epochs": 0.5}
    sums = [0.0]

    def keep(state: dict[str, Any], wait: bool) -> None:
        del wait
        if state["step"] and state["loss"]:
            sums.append(state["loss"])

    cpu = torch.device("cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(
            Run(
                network=Network(architecture=architecture, width=None, shape=(28, 28, 1), classes=classes,
                                channels=counts.statistics()),
                train=Resident(images, cpu), val=Resident(images.take(np.arange(100)), cpu),
                recipe=Recipe.model_validate(recipe | {"augment": {"flip": 0.5, "crop_padding": 2, "erase": 4}}),
                global_batch=BATCH, micro_batches=2, seed=0, device=torch.device("cpu"),
                around=Surroundings(save=keep, due=lambda _: True),
            ),
            precision="fp32",
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return [(after - before) / BATCH for before, after in pairwise(sums)]


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: [round(loss, 6) for loss in curve(name)] for name in ARCHITECTURES}, indent=1) + "\n")
