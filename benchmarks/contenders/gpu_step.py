"""Training steps on a GPU, in several implementations.

Arguments: `IMPLEMENTATION ARCHITECTURE SIDE BATCH STEPS RESULT`. Implementations:

- `kiln`: Kiln's own step, on random images that are resident on the device;
- `shards`: the same, on images read from shards through a file on the node's disk;
- `plain`: a step optimised by hand, in bf16 and channels-last on one float batch made beforehand,
  with a free choice of cuDNN's algorithms;
- `graph`: the plain step captured as one CUDA graph.

Without a GPU, in a smoke run, the steps run on the CPU.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contenders.common import write_result
from benchmarks.contenders.stepping import CPU, iterate_steps, make_random_images, make_stepper
from components.data.format.images import Images
from components.data.format.shards import write_split
from components.data.loading.image_stores import DiskImages, ImageStore, InMemoryImages
from components.models.architectures import build
from components.params import Recipe
from components.records.training import Network
from components.training.precision import autocast, synchronize
from components.training.stepper import Stepper

_WARM_UP_STEPS = 10


def main() -> None:
    implementation, architecture = sys.argv[1:3]
    side, batch, count = map(int, sys.argv[3:6])
    result = Path(sys.argv[6])
    device = torch.device("cuda", 0) if torch.cuda.is_available() else CPU
    network, images, recipe = make_random_images(
        architecture, side, batch * (8 if side > 64 else 64)
    )
    notes: list[str] = []
    if implementation in ("kiln", "shards"):
        folder = result.parent if implementation == "shards" else None
        stepper = _make_kiln_stepper(network, images, recipe, batch, device, folder)
        notes.append(f"precision {stepper.state.precision}")
        steps = iterate_steps(stepper)

        def step() -> None:
            next(steps)
    else:
        step = make_plain_step(network, batch, device)
        if implementation == "graph":
            step = capture_graph(step)
    for _ in range(_WARM_UP_STEPS if device.type == "cuda" else 1):
        step()
    seconds = measure_seconds(step, count, device)
    values = {"images_per_s": batch * count / seconds, "step_s": seconds / count}
    values["tflops"] = values["images_per_s"] * count_flops(network) / 1e12
    if device.type == "cuda":
        values["busy"], kernels = _profile_kernels(step, count, device)
        notes += ["", *kernels]
    write_result(result, values, notes)


def _make_kiln_stepper(
    network: Network,
    images: Images,
    recipe: Recipe,
    batch: int,
    device: torch.device,
    folder: Path | None,
) -> Stepper:
    """Make Kiln's stepper on resident images, or through shards that are written to `folder`."""
    store: ImageStore
    if folder is None:
        store = InMemoryImages(images, device)
    else:
        write_split(folder / "train", "train", images, network.classes, 64)
        store = DiskImages(folder / "train", folder / "cache", device, lambda: None)
    return make_stepper(network, store, recipe, batch, 1, device=device)


def make_plain_step(network: Network, batch: int, device: torch.device) -> Callable[[], None]:
    """Return a function that makes one step of the bare network, always on the same images."""
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model: nn.Module = build(network).network
    model = model.to(device).to(memory_format=torch.channels_last).train()
    height, width, channels = network.shape
    images = torch.randn(batch, channels, height, width, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % len(network.classes)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, "bf16"):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def capture_graph(step: Callable[[], None]) -> Callable[[], None]:
    """Return `step` as one CUDA graph.

    It is warmed up on a side stream, as https://docs.pytorch.org/docs/stable/notes/cuda.html
    requires.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def measure_seconds(step: Callable[[], None], count: int, device: torch.device) -> float:
    """Return the seconds of `count` steps, until the device has finished them."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    synchronize(device)
    return time.perf_counter() - start


def _profile_kernels(
    step: Callable[[], None], count: int, device: torch.device
) -> tuple[float, list[str]]:
    """Return the share of the time in which the GPU computes, and a table of its kernels."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        seconds = measure_seconds(step, count, device)
    rows = profiled.key_averages()
    busy_s = sum(row.self_device_time_total for row in rows) / 1e6
    longest = sorted(rows, key=lambda row: -row.self_device_time_total)[:12]
    lines = ["| kernel | ms a step |", "|---|---|"]
    return busy_s / seconds, lines + [
        f"| `{row.key[:90]}` | {row.self_device_time_total / 1e3 / count:.3f} |" for row in longest
    ]


def count_flops(network: Network) -> float:
    """Return the operations of one image's forward and backward pass.

    A multiplication and its addition count as two.
    """
    model = build(network).train()
    images = torch.zeros(2, *network.shape, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return float(counter.get_total_flops() / len(images))


if __name__ == "__main__":
    main()
