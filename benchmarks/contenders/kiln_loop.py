"""Kiln's loop (`components.training.loop.train`) under torchrun: `WORKLOAD RESULT SEED`.

There is no Ray: this is the rate of the loop alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.contenders.common import (
    Workload,
    evaluate_top1,
    parse_arguments,
    steady_rate,
    write_result,
)
from components.data.format.shards import read_split
from components.data.loading.image_stores import InMemoryImages
from components.models.architectures import build
from components.training.callback import NullCallback
from components.training.config import LoopConfig
from components.training.events import EpochFinished, TrainingEvent
from components.training.loop import train


class EpochRates(NullCallback):
    """Collects the images per second of each epoch."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_event(self, event: TrainingEvent) -> None:
        if isinstance(event, EpochFinished):
            self.rates.append(event.images_per_s)


def compute_metrics(
    workload: Workload, weights: dict[str, Tensor], rates: Sequence[float]
) -> dict[str, float]:
    """Return the metrics of a training.

    Args:
        weights: state dict of the classifier that the training kept.
        rates: images per second of each epoch.
    """
    classifier = build(workload.network)
    classifier.load_state_dict(weights)
    return {
        "images_per_s": steady_rate(1, [1 / rate for rate in rates]),
        "test_top1": evaluate_top1(classifier.network, workload),
    }


def main() -> None:
    workload, result = parse_arguments()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    callback = EpochRates()
    config = LoopConfig(
        network=workload.network,
        train=_load_images(workload, "train"),
        val=_load_images(workload, "val"),
        recipe=workload.recipe,
        global_batch=workload.global_batch,
        micro_batches=workload.processes,
        seed=workload.seed,
        device=torch.device("cpu"),
        callback=callback,
    )
    outcome = train(config)
    if dist.get_rank() == 0:
        values = compute_metrics(workload, outcome.weights, callback.rates)
        write_result(result, values, [f"precision {outcome.precision}"])
    dist.destroy_process_group()


def _load_images(workload: Workload, split: str) -> InMemoryImages:
    images, _ = read_split(Path(workload.data) / split)
    return InMemoryImages(images, torch.device("cpu"))


if __name__ == "__main__":
    main()
