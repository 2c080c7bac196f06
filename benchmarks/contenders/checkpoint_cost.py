"""Cost of one checkpoint of ResNet-18 compared with an epoch at 32 x 32: `BATCH STEPS RESULT`.

The epoch has as many images as Fashion-MNIST. Checkpoints are written on a thread while training
goes on. The result counts the time of writing as if training waited for it.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.contenders.common import write_result
from benchmarks.contenders.stepping import (
    iterate_steps,
    make_random_images,
    make_stepper,
    measure_step_s,
)
from components.orchestration.checkpoints import Checkpoints
from components.records.training import Epoch
from components.storage import open_store

_EPOCH_ROWS = 54_000
_CHECKPOINTS = 3


def main() -> None:
    batch = int(sys.argv[1])
    step_count = int(sys.argv[2])
    result = Path(sys.argv[3])
    torch.set_num_threads(2)
    network, images, recipe = make_random_images("resnet18", 32, 2 * batch)
    stepper = make_stepper(network, images, recipe, batch, 2)
    state = stepper.state
    steps = iterate_steps(stepper)
    measure_step_s(steps, 1)  # warm-up
    step_s = statistics.median(measure_step_s(steps, 1) for _ in range(step_count))
    epoch = Epoch(
        epoch=1, step=1, learning_rate=0.1, train_loss=1, train_top1=0.1, val_loss=1, val_top1=0.1
    )
    state.history.add(epoch, state.copy_eval_weights)  # a checkpoint also has the best weights
    checkpoints = Checkpoints(open_store(str(result.parent), "checkpoints"), "0" * 64, keep=2)
    copy_times = []
    write_times = []
    for number in range(_CHECKPOINTS):
        start = time.perf_counter()
        snapshot = state.state_dict() | {"step": number}
        copied = time.perf_counter()
        checkpoints.write(snapshot)
        copy_times.append(copied - start)
        write_times.append(time.perf_counter() - copied)
    dump_s = statistics.median(copy_times)
    write_s = statistics.median(write_times)
    epoch_s = _EPOCH_ROWS / batch * step_s
    values = {
        "images_per_s": batch / step_s,
        "dump_s": dump_s,
        "write_s": write_s,
        "share": (dump_s + write_s) / epoch_s,
    }
    note = f"an epoch of {_EPOCH_ROWS:,} images takes {epoch_s:.0f} s"
    write_result(result, values, [f"precision {state.precision}, {note}"])


if __name__ == "__main__":
    main()
