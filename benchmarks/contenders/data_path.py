"""Kiln's step with loading (from memory, from a disk) and augmentation, and the same on one batch made beforehand, in turns:
`DATA BLOCKS RESULT`."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.contenders.common import report
from benchmarks.contenders.stepping import CPU, endless, fashion, join, leave, make_stepper, seconds_per_step
from components.data.loading.image_stores import OnDisk
from components.data.loading.sampling import epoch_batches

_BATCH, _STEPS = 256, 8


def main() -> None:
    data, blocks, result = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    rank, world = join()
    network, images, recipe = fashion(data, "cnn", flip=0.5, crop_padding=2)
    loading = make_stepper(network, images, recipe, _BATCH, world)
    bare = fashion(data, "cnn", flip=0.0, crop_padding=0)[2]
    disk = OnDisk(Path(data) / "train", result.parent / "images", CPU, lambda: None)
    streaming = make_stepper(network, disk, recipe, _BATCH, world)
    made = make_stepper(network, images, bare, _BATCH, world, fixed=True)
    streams = {"loading": endless(loading), "streaming": endless(streaming), "made": endless(made)}
    seconds: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(blocks + 1):
        for name, steps in streams.items():
            seconds[name].append(seconds_per_step(steps, _STEPS))
    start = time.perf_counter()  # once per epoch, which the blocks are too short to show
    loading.augmenter.begin(0, 1)
    epoch_batches(torch.from_numpy(images.labels), _BATCH, 0, 1)
    once = (time.perf_counter() - start) / loading.state.steps_per_epoch
    each = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    if rank == 0:
        rates = {f"{name}_images_per_s": _BATCH / (value + once * (name != "made")) for name, value in each.items()}
        report(result, {"images_per_s": rates["loading_images_per_s"], **rates}, [f"precision {loading.state.precision}"])
    leave()


if __name__ == "__main__":
    main()
