"""Kiln's step at a number of threads; processes are torchrun's: `DATA THREADS MICRO_BATCHES STEPS RESULT`."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch

from benchmarks.contenders.common import report
from benchmarks.contenders.stepping import endless, fashion, join, leave, make_stepper, seconds_per_step

_BATCH, _BLOCK = 256, 4


def main() -> None:
    threads, parts, count = (int(word) for word in sys.argv[2:5])
    torch.set_num_threads(threads)
    rank, _ = join()
    stepper = make_stepper(*fashion(sys.argv[1], "cnn"), _BATCH, parts)
    steps = endless(stepper)
    seconds_per_step(steps, _BLOCK)  # warm-up
    seconds = [seconds_per_step(steps, _BLOCK) for _ in range(max(1, count // _BLOCK))]
    if rank == 0:
        report(
            Path(sys.argv[5]), {"images_per_s": _BATCH / statistics.median(seconds)}, [f"precision {stepper.state.precision}"]
        )
    leave()


if __name__ == "__main__":
    main()
