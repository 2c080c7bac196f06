"""Training steps on this machine's GPU (in a smoke run without one: its processor): `WAY ARCHITECTURE SIDE BATCH STEPS RESULT`.

`kiln`: its own step, random images resident on the device; `shards`: the same from shards, through the node's disk; `plain`:
what is written by hand for speed, bf16 and channels-last on one float batch made beforehand, cuDNN's choice free; `graph`: that
as one CUDA graph.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contenders.common import report
from benchmarks.contenders.stepping import CPU, endless, make_stepper, noise
from components.data.format.shards import write_split
from components.data.loading.image_stores import OnDisk, Resident
from components.models import build
from components.records.training import Network
from components.training.precision import autocast, settle

_WARM = 10


def main() -> None:
    way, architecture, result = sys.argv[1], sys.argv[2], Path(sys.argv[6])
    side, batch, count = map(int, sys.argv[3:6])
    device = torch.device("cuda", 0) if torch.cuda.is_available() else CPU
    network, images, recipe = noise(architecture, side, batch * (8 if side > 64 else 64))
    notes: list[str] = []
    if way in ("kiln", "shards"):
        if way == "shards":
            split = result.parent / "train"
            write_split(split, "train", images, network.classes, 64)
        pool = Resident(images, device) if way == "kiln" else OnDisk(split, result.parent / "cache", device, lambda: None)
        stepper = make_stepper(network, pool, recipe, batch, 1, device=device)
        notes.append(f"precision {stepper.state.precision}")
        steps = endless(stepper)

        def step() -> None:
            next(steps)
    else:
        step = plain(network, batch, device)
        if way == "graph":
            step = captured(step)
    for _ in range(_WARM if device.type == "cuda" else 1):
        step()
    seconds = timed(step, count, device)
    values = {"images_per_s": batch * count / seconds, "step_s": seconds / count}
    values["tflops"] = values["images_per_s"] * flops(network) / 1e12
    if device.type == "cuda":
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            seconds = timed(step, count, device)
        rows = profiled.key_averages()
        values["busy"] = sum(row.self_device_time_total for row in rows) / 1e6 / seconds
        top = sorted(rows, key=lambda row: -row.self_device_time_total)[:12]
        notes += ["", "| kernel | ms a step |", "|---|---|"]
        notes += [f"| `{row.key[:90]}` | {row.self_device_time_total / 1e3 / count:.3f} |" for row in top]
    report(result, values, notes)


def timed(step: Callable[[], None], count: int, device: torch.device) -> float:
    """Seconds of `count` steps, all their work done."""
    settle(device)
    start = time.perf_counter()
    for _ in itertools.repeat(None, count):
        step()
    settle(device)
    return time.perf_counter() - start


def plain(network: Network, batch: int, device: torch.device) -> Callable[[], None]:
    """One step of the bare network, always on the same images."""
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model: nn.Module = build(network).network.to(device).to(memory_format=torch.channels_last).train()
    height, width, channels = network.shape
    images = torch.randn(batch, channels, height, width, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % len(network.classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, "bf16"):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """`step` as one CUDA graph, warmed up on a stream of its own (https://docs.pytorch.org/docs/stable/notes/cuda.html)."""
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


def flops(network: Network) -> float:
    """Of one image's forward and backward; a multiplication and its addition are two."""
    model = build(network).train()
    images = torch.zeros(2, *network.shape, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return float(counter.get_total_flops() / len(images))


if __name__ == "__main__":
    main()
