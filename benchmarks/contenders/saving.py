"""What one checkpoint of ResNet-18 costs against an epoch of Fashion-MNIST's size at 32 x 32: `BATCH STEPS RESULT`.

Writing happens on a thread while training goes on; all of its time is counted as if training stood still.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.contenders.common import report
from benchmarks.contenders.stepping import endless, make_stepper, noise, seconds_per_step
from components.orchestration.checkpoints import Checkpoints
from components.records.training import Epoch
from components.storage import open_store

_ROWS, _SAVES = 54_000, 3


def main() -> None:
    batch, count, result = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(2)
    stepper = make_stepper(*noise("resnet18", 32, 2 * batch), batch, 2)
    steps, state = endless(stepper), stepper.state
    seconds_per_step(steps, 1)
    step_s = statistics.median(seconds_per_step(steps, 1) for _ in range(count))
    row = Epoch(epoch=1, step=1, learning_rate=0.1, train_loss=1, train_top1=0.1, val_loss=1, val_top1=0.1)
    state.score.add(row, state.weights)  # the best weights so far are saved, too
    checkpoints = Checkpoints(open_store(str(result.parent), "checkpoints"), "0" * 64, keep=2)
    dumps, writes = [], []
    for number in range(_SAVES):
        start = time.perf_counter()
        dumped = state.dump() | {"step": number}
        dumps.append(time.perf_counter() - start)
        checkpoints.write(dumped)
        writes.append(time.perf_counter() - start - dumps[-1])
    dump_s, write_s = statistics.median(dumps), statistics.median(writes)
    epoch_s = _ROWS / batch * step_s
    values = {"images_per_s": batch / step_s, "dump_s": dump_s, "write_s": write_s, "share": (dump_s + write_s) / epoch_s}
    report(result, values, [f"precision {state.precision}, an epoch of {_ROWS:,} images takes {epoch_s:.0f} s"])


if __name__ == "__main__":
    main()
