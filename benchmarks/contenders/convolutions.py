"""Time of Kiln's step for ResNet-18 at 32 x 32, and of its convolutions: `BATCH SWEEPS RESULT`.

The convolutions run forward and backward in the layout, precision and order of the step, each on
tensors of its own. The rest of the step is batch norm, activations, casts, the loss, the exchange
of gradients and the optimizer.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.contenders.common import write_result
from benchmarks.contenders.stepping import (
    iterate_steps,
    join_group,
    leave_group,
    make_random_images,
    make_stepper,
    measure_step_s,
)


def main() -> None:
    batch = int(sys.argv[1])
    sweeps = int(sys.argv[2])
    result = Path(sys.argv[3])
    torch.set_num_threads(1)
    rank, world = join_group()
    network, images, recipe = make_random_images("resnet18", 32, 2 * batch)
    stepper = make_stepper(network, images, recipe, batch, world)
    precision = stepper.state.precision
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    pixels = torch.from_numpy(images.pixels[: batch // world])
    sweep = make_convolution_sweep(stepper.state.model, pixels, dtype)
    steps = iterate_steps(stepper)
    measure_step_s(steps, 1)
    sweep()
    step_times = []
    sweep_times = []
    for _ in range(sweeps):
        step_times.append(measure_step_s(steps, 1))
        start = time.perf_counter()
        sweep()
        sweep_times.append(time.perf_counter() - start)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        measure_step_s(steps, 1)
    if rank == 0:
        step_s = statistics.median(step_times)
        values = {
            "images_per_s": batch / step_s,
            "step_s": step_s,
            "convolutions_s": statistics.median(sweep_times),
        }
        write_result(result, values, [f"precision {precision}", "", *_format_profile(profiled)])
    leave_group()


def make_convolution_sweep(
    model: nn.Module, pixels: Tensor, dtype: torch.dtype
) -> Callable[[], None]:
    """Return a function that runs every convolution of `model` forward and backward.

    Inputs and gradients are random, with the shapes that the batch `pixels` gives them.
    """
    convolutions = []
    for n, (module, shape) in enumerate(_find_convolutions(model, pixels)):
        x = _to_channels_last(torch.randn(shape), dtype)
        # The first convolution reads the images, which need no gradient.
        x.requires_grad_(n > 0)
        weight = _to_channels_last(module.weight.detach(), dtype).requires_grad_()
        out = F.conv2d(x, weight, None, module.stride, module.padding)
        convolutions.append((module, x, weight, torch.randn_like(out)))

    def sweep() -> None:
        # Deterministic algorithms are Kiln's choice: they count as a cost of its step.
        torch.set_deterministic_debug_mode("default")
        for module, x, weight, gradient in convolutions:
            out = F.conv2d(x, weight, None, module.stride, module.padding)
            torch.autograd.grad(out, [t for t in (x, weight) if t.requires_grad], gradient)
        torch.set_deterministic_debug_mode("error")

    return sweep


def _to_channels_last(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype).contiguous(memory_format=torch.channels_last)


def _find_convolutions(model: nn.Module, pixels: Tensor) -> list[tuple[nn.Conv2d, torch.Size]]:
    """Return the convolutions of `model` in the order of its forward pass, with input shapes."""
    convolutions: list[tuple[nn.Conv2d, torch.Size]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        convolutions.append((module, inputs[0].shape))

    hooks = [
        module.register_forward_hook(record)
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    training = model.training
    with torch.no_grad():
        model.eval()(pixels)
    model.train(training)
    for hook in hooks:
        hook.remove()
    return convolutions


def _format_profile(profiled: profile) -> list[str]:
    """Return a table of the operators with the largest shares of one step of rank 0."""
    rows = sorted(profiled.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    lines = ["| operator | share of the step | calls |", "|---|---|---|"]
    return lines + [
        f"| `{row.key}` | {row.self_cpu_time_total / total:.1%} | {row.count} |"
        for row in rows[:14]
    ]


if __name__ == "__main__":
    main()
