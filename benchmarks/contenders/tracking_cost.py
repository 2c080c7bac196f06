"""Cost of metrics of every step in MLflow, for Kiln's step: `SPLITS STEPS BLOCKS RESULT`.

Blocks with and without metrics take turns. `TrainingRun` sends metrics on a thread of its own,
once a second. After each block the contender waits, untimed, until the last metrics have arrived.
The result lacks their cost; the longer the blocks, the smaller this error.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.contenders.common import write_result
from benchmarks.contenders.stepping import (
    iterate_steps,
    load_fashion_mnist,
    make_stepper,
    measure_step_s,
)
from components.records.training import Epoch
from components.tracking import store
from components.tracking.training_run import TrainingRun
from components.training.totals import Totals

_GLOBAL_BATCH = 256


def main() -> None:
    splits = sys.argv[1]
    step_count = int(sys.argv[2])
    blocks = int(sys.argv[3])
    result = Path(sys.argv[4])
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{result.parent / 'mlflow.db'}"
    torch.set_num_threads(2)
    client = store.connect()
    experiment_id = store.ensure_experiment(client, "benchmark")
    run = TrainingRun(client, client.create_run(experiment_id).info.run_id)
    network, images, recipe = load_fashion_mnist(splits, "cnn", flip=0.5)
    steps = iterate_steps(make_stepper(network, images, recipe, _GLOBAL_BATCH, 2))
    measure_step_s(steps, step_count)  # warm-up
    ratios = []
    tracked_times = []
    for number in range(blocks):
        untracked_s = measure_step_s(steps, step_count)
        tracked_s = _measure_tracked_step_s(steps, step_count, run, first=number * step_count + 1)
        # The machine's speed changes by more than the cost, so only neighbours are compared.
        ratios.append(tracked_s / untracked_s)
        tracked_times.append(tracked_s)
    run.end("FINISHED")
    values = {
        "images_per_s": _GLOBAL_BATCH / statistics.median(tracked_times),
        "cost": statistics.median(ratios) - 1,
    }
    write_result(result, values, [f"blocks of {step_count} steps, 5 figures a step"])


def _measure_tracked_step_s(
    steps: Iterator[Totals], count: int, run: TrainingRun, *, first: int
) -> float:
    """Make `count` steps and return the mean seconds of one.

    Each is logged as an epoch, from number `first` on.
    """
    start = time.perf_counter()
    for number, totals in enumerate(itertools.islice(steps, count), first):
        loss = totals.loss / _GLOBAL_BATCH
        top1 = totals.correct / _GLOBAL_BATCH
        run.log_epoch(
            Epoch(
                epoch=number,
                step=number,
                learning_rate=0.1,
                train_loss=loss,
                train_top1=top1,
                val_loss=loss,
                val_top1=top1,
            )
        )
    step_s = (time.perf_counter() - start) / count
    while _last_logged(run) < first + count - 1:
        time.sleep(0.1)
    return step_s


def _last_logged(run: TrainingRun) -> int:
    """Return the number of the last epoch whose metrics have arrived in the store."""
    metrics = run.client.get_metric_history(run.run_id, "val_top1")
    return max((metric.step for metric in metrics), default=0)


if __name__ == "__main__":
    main()
