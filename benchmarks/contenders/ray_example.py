"""Ray's own Fashion-MNIST example, unchanged, on two workers; only its accuracies are written down.

Its data are looked for below HOME: the harness puts the extracted files there beforehand, as its first run would.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray.train
from ray.train.examples.pytorch import torch_fashion_mnist_example as example

from benchmarks.contenders.common import report

_theirs = example.train_func_per_worker


def noting(config: dict[str, Any]) -> None:
    """The example's function; what each rank reports is also appended to a file. Each rank tests its half of the images."""
    publish = ray.train.report

    def noted(metrics: dict[str, Any], *words: Any, **named: Any) -> None:
        rank = ray.train.get_context().get_world_rank()
        with Path(config["noted"], f"rank{rank}.jsonl").open("a") as file:
            file.write(json.dumps(metrics["accuracy"]) + "\n")
        publish(metrics, *words, **named)

    ray.train.report = noted
    _theirs({**config, "epochs": config["wanted_epochs"]})


class Trainer(example.TorchTrainer):  # type: ignore[misc]
    """Passes on where to write."""

    def __init__(self, **named: Any) -> None:
        named["train_loop_config"] |= {"noted": str(Path(sys.argv[1]).parent), "wanted_epochs": int(sys.argv[2])}
        super().__init__(**named)


def main() -> None:
    result = Path(sys.argv[1])
    example.train_func_per_worker, example.TorchTrainer = noting, Trainer
    example.train_fashion_mnist(num_workers=2)
    ranks = [[json.loads(line) for line in path.read_text().splitlines()] for path in result.parent.glob("rank*.jsonl")]
    means = [sum(epoch) / len(epoch) for epoch in zip(*ranks, strict=True)]
    report(result, {"test_top1": means[-1]}, [f"test top-1 by epoch: {', '.join(f'{m:.2%}' for m in means)}"])


if __name__ == "__main__":
    main()
