"""Rate of Kiln's step, in one process or in several that torchrun starts.

Arguments: `SPLITS THREADS MICRO_BATCHES STEPS RESULT`. `THREADS` is the number per process.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch

from benchmarks.contenders.common import write_result
from benchmarks.contenders.stepping import (
    iterate_steps,
    join_group,
    leave_group,
    load_fashion_mnist,
    make_stepper,
    measure_step_s,
)

_GLOBAL_BATCH = 256
_STEPS_PER_BLOCK = 4


def main() -> None:
    splits = sys.argv[1]
    threads, micro_batches, step_count = map(int, sys.argv[2:5])
    result = Path(sys.argv[5])
    torch.set_num_threads(threads)
    rank, _ = join_group()
    network, images, recipe = load_fashion_mnist(splits, "cnn", flip=0.5)
    stepper = make_stepper(network, images, recipe, _GLOBAL_BATCH, micro_batches)
    steps = iterate_steps(stepper)
    measure_step_s(steps, _STEPS_PER_BLOCK)  # warm-up
    blocks = max(1, step_count // _STEPS_PER_BLOCK)
    step_s = statistics.median(measure_step_s(steps, _STEPS_PER_BLOCK) for _ in range(blocks))
    if rank == 0:
        values = {"images_per_s": _GLOBAL_BATCH / step_s}
        write_result(result, values, [f"precision {stepper.state.precision}"])
    leave_group()


if __name__ == "__main__":
    main()
