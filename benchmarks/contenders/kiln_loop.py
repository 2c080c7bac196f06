"""Kiln's loop (`components.training.loop.train`) under torchrun, without Ray: what the loop alone can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.contenders.common import Work, arguments, report, steady, top1
from components.data.format.shards import read_split
from components.data.loading.image_stores import Resident
from components.models.classifier import Classifier
from components.training.callback import Surroundings
from components.training.loop import Outcome, Run, train


def values(work: Work, outcome_state: dict[str, Any], epochs: list[dict[str, Any]]) -> dict[str, float]:
    """Figures from what the loop emitted, and the test accuracy of the weights that it kept."""
    seconds = [1 / row["images_per_s"] for row in epochs]
    network = work.network()
    classifier = Classifier(work.model(), network.channels.mean, network.channels.std)
    classifier.load_state_dict(outcome_state)
    return {"images_per_s": steady(1, seconds), "test_top1": top1(classifier.network, work)}


def main() -> None:
    work, result = arguments()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    events: list[dict[str, Any]] = []
    outcome: Outcome = train(
        Run(
            network=work.network(),
            train=Resident(read_split(Path(work.data) / "train")[0], torch.device("cpu")),
            val=Resident(read_split(Path(work.data) / "val")[0], torch.device("cpu")),
            recipe=work.recipe,
            global_batch=work.global_batch,
            micro_batches=work.processes,
            seed=work.seed,
            device=torch.device("cpu"),
            around=Surroundings(emit=events.append),
        )
    )
    if dist.get_rank() == 0:
        epochs = [event for event in events if event["kind"] == "epoch"]
        report(result, values(work, outcome.state, epochs), [f"precision {outcome.precision}"])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
