"""Ray's own Fashion-MNIST example on two workers: `RESULT EPOCHS`.

The training function is the example's, unchanged. The trainer has the example's settings, and a
callback that keeps the accuracies, which the example only prints.

The example reads its data below HOME. The theme puts the extracted files there beforehand, as the
example's first run would.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from ray.train import RunConfig, ScalingConfig, UserCallback
from ray.train.examples.pytorch import torch_fashion_mnist_example as example
from ray.train.torch import TorchTrainer

from benchmarks.contenders.common import write_result

_WORKERS = 2
_GLOBAL_BATCH = 32


class AccuracyLog(UserCallback):  # type: ignore[misc]
    """Appends the mean accuracy over the workers to a file after each epoch.

    Each worker tests its half of the images. Ray's controller calls this in its own process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_report(
        self,
        run_context: Any,  # noqa: ARG002
        metrics: list[dict[str, Any]],
        checkpoint: Any,  # noqa: ARG002
    ) -> None:
        mean = statistics.fmean(worker["accuracy"] for worker in metrics)
        with self.path.open("a") as file:
            file.write(json.dumps(mean) + "\n")


def main() -> None:
    result = Path(sys.argv[1])
    epochs = int(sys.argv[2])
    log = result.parent / "accuracies.jsonl"
    trainer = TorchTrainer(
        train_loop_per_worker=example.train_func_per_worker,
        train_loop_config={
            "lr": 1e-3,
            "epochs": epochs,
            "batch_size_per_worker": _GLOBAL_BATCH // _WORKERS,
        },
        scaling_config=ScalingConfig(num_workers=_WORKERS),
        run_config=RunConfig(callbacks=[AccuracyLog(log)]),
    )
    trainer.fit()
    accuracies = [json.loads(line) for line in log.read_text().splitlines()]
    by_epoch = ", ".join(f"{accuracy:.2%}" for accuracy in accuracies)
    write_result(result, {"test_top1": accuracies[-1]}, [f"test top-1 by epoch: {by_epoch}"])


if __name__ == "__main__":
    main()
