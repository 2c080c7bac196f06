"""Cost of loading and augmentation in Kiln's step: `SPLITS BLOCKS RESULT`.

Three steppers take turns in blocks: images from memory, images from a file on disk, and the same
batch in every step without augmentation.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.contenders.common import write_result
from benchmarks.contenders.stepping import (
    CPU,
    iterate_steps,
    join_group,
    leave_group,
    load_fashion_mnist,
    make_recipe,
    make_stepper,
    measure_step_s,
)
from components.data.loading.image_stores import DiskImages
from components.data.loading.sampling import sample_batches
from components.training.stepper import Stepper

_GLOBAL_BATCH = 256
_STEPS_PER_BLOCK = 8


def main() -> None:
    splits = sys.argv[1]
    blocks = int(sys.argv[2])
    result = Path(sys.argv[3])
    torch.set_num_threads(1)
    rank, world = join_group()
    steppers = _make_steppers(splits, result.parent / "images", world)
    streams = {name: iterate_steps(stepper) for name, stepper in steppers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(blocks + 1):
        for name, steps in streams.items():
            seconds[name].append(measure_step_s(steps, _STEPS_PER_BLOCK))
    # The first block is warm-up.
    step_s = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    epoch_start_s = _measure_epoch_start(steppers["loading"])
    for name in ("loading", "streaming"):
        step_s[name] += epoch_start_s
    if rank == 0:
        values = {f"{name}_images_per_s": _GLOBAL_BATCH / value for name, value in step_s.items()}
        values["images_per_s"] = values["loading_images_per_s"]
        write_result(result, values, [f"precision {steppers['loading'].state.precision}"])
    leave_group()


def _make_steppers(splits: str, cache: Path, micro_batches: int) -> dict[str, Stepper]:
    network, images, recipe = load_fashion_mnist(splits, "cnn", flip=0.5, crop_padding=2)
    plain_recipe = make_recipe("cnn", flip=0.0, crop_padding=0)
    disk = DiskImages(Path(splits) / "train", cache, CPU, lambda: None)
    loading = make_stepper(network, images, recipe, _GLOBAL_BATCH, micro_batches)
    streaming = make_stepper(network, disk, recipe, _GLOBAL_BATCH, micro_batches)
    made = make_stepper(
        network, images, plain_recipe, _GLOBAL_BATCH, micro_batches, constant_images=True
    )
    return {"loading": loading, "streaming": streaming, "made": made}


def _measure_epoch_start(stepper: Stepper) -> float:
    """Return the time of an epoch's random draws, in seconds per step.

    The timed blocks are too short to contain the start of an epoch.
    """
    start = time.perf_counter()
    stepper.augmenter.begin_epoch(0, 1)
    sample_batches(stepper.config.train.labels, _GLOBAL_BATCH, 0, 1)
    return (time.perf_counter() - start) / stepper.state.steps_per_epoch


if __name__ == "__main__":
    main()
