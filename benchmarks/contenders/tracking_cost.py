"""Kiln's step with and without figures of every step going to MLflow, in turns: `DATA STEPS BLOCKS RESULT`.

`TrainingRun` sends on a thread of its own, once a second. The last second of a block is waited for, untimed: the longer the
block, the less of the cost that hides.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mlflow import MlflowClient

from benchmarks.contenders.common import report
from benchmarks.contenders.stepping import endless, fashion, make_stepper
from components.records.training import Epoch
from components.tracking import store
from components.tracking.runs import TrainingRun
from components.training.reducer import Totals

_BATCH = 256


def main() -> None:
    data, count, blocks, result = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{result.parent / 'mlflow.db'}"
    torch.set_num_threads(2)
    client = store.connect()
    run_id = client.create_run(store.experiment(client, "benchmark")).info.run_id
    tracked, numbers = TrainingRun(client, run_id), itertools.count(1)
    steps = endless(make_stepper(*fashion(data, "cnn"), _BATCH, 2))

    def log(totals: Totals) -> int:
        number, share = next(numbers), totals.correct / _BATCH
        loss = totals.loss / _BATCH
        tracked.epoch(
            Epoch(
                epoch=number, step=number, learning_rate=0.1, train_loss=loss, train_top1=share, val_loss=loss, val_top1=share
            )
        )
        return number

    def block(note: Callable[[Totals], int] | None) -> float:
        start, last = time.perf_counter(), 0
        for totals in itertools.islice(steps, count):
            last = note(totals) if note else 0
        seconds = time.perf_counter() - start
        while last and _newest(client, run_id) < last:
            time.sleep(0.1)
        return seconds

    block(None)
    pairs = [(block(None), block(log)) for _ in range(blocks)]
    # Of each pair, which are neighbours in time: the machine's own pace changes by more than this cost.
    cost = statistics.median(having / without for without, having in pairs) - 1
    having = statistics.median(having for _, having in pairs)
    tracked.end("FINISHED")
    values = {"images_per_s": count * _BATCH / having, "cost": cost}
    report(result, values, [f"blocks of {count} steps, 5 figures a step"])


def _newest(client: MlflowClient, run_id: str) -> int:
    return max((m.step for m in client.get_metric_history(run_id, "val_top1")), default=0)


if __name__ == "__main__":
    main()
