"""Kiln's step for ResNet-18 at 32 x 32 beside its convolutions alone, forward and backward: `BATCH SWEEPS RESULT`.

Convolutions run in the layout and precision of the step, in the network's order, each on tensors of its own; what else the
step does is batch norm, activations, casts, loss, the exchange and the optimiser.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.contenders.common import report
from benchmarks.contenders.stepping import endless, join, leave, make_stepper, noise, seconds_per_step


def main() -> None:
    batch, sweeps, result = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    rank, world = join()
    network, images, recipe = noise("resnet18", 32, 2 * batch)
    stepper = make_stepper(network, images, recipe, batch, world)
    precision = stepper.state.precision
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    sweep = bare(stepper.state.model, torch.from_numpy(images.pixels[: batch // world]), dtype)
    steps = endless(stepper)
    seconds_per_step(steps, 1)
    sweep()
    whole, alone = [], []
    for _ in range(sweeps):
        whole.append(seconds_per_step(steps, 1))
        start = time.perf_counter()
        sweep()
        alone.append(time.perf_counter() - start)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        seconds_per_step(steps, 1)
    if rank == 0:
        step_s, convolutions_s = statistics.median(whole), statistics.median(alone)
        values = {"images_per_s": batch / step_s, "step_s": step_s, "convolutions_s": convolutions_s}
        report(result, values, [f"precision {precision}", "", *_table(profiled)])
    leave()


def bare(model: nn.Module, pixels: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """A function that runs every convolution of `model` for this batch, forward and backward."""
    found: list[tuple[nn.Conv2d, Any]] = []
    hooks = [
        m.register_forward_hook(lambda m, inputs, _: found.append((m, inputs[0].shape)))
        for m in model.modules()
        if isinstance(m, nn.Conv2d)
    ]
    training = model.training
    with torch.no_grad():
        model.eval()(pixels)
    model.train(training)
    for hook in hooks:
        hook.remove()
    layout = torch.channels_last
    prepared = []
    for number, (module, shape) in enumerate(found):
        x = torch.randn(shape).to(dtype).contiguous(memory_format=layout).requires_grad_(number > 0)  # nobody asks for images'
        weight = module.weight.detach().to(dtype).contiguous(memory_format=layout).requires_grad_()
        out = F.conv2d(x, weight, None, module.stride, module.padding)
        prepared.append((x, weight, module, torch.randn_like(out)))

    def sweep() -> None:
        # What Kiln pays for determinism is the step's, not the machine's.
        torch.use_deterministic_algorithms(False)
        for x, weight, module, gradient in prepared:
            out = F.conv2d(x, weight, None, module.stride, module.padding)
            torch.autograd.grad(out, [t for t in (x, weight) if t.requires_grad], gradient)
        torch.use_deterministic_algorithms(True)

    return sweep


def _table(profiled: profile) -> list[str]:
    """Where one step's time goes, rank 0: the operators with the largest share."""
    rows = sorted(profiled.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    lines = ["| operator | share of the step | calls |", "|---|---|---|"]
    return lines + [f"| `{row.key}` | {row.self_cpu_time_total / total:.1%} | {row.count} |" for row in rows[:14]]


if __name__ == "__main__":
    main()
