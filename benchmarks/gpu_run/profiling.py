"""Part `profiling`: the work of the GPU in Kiln's step, kernel by kernel."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_run.cases import CASES, SMOKE_CASES, StepCase, count_flops, shrink
from benchmarks.gpu_run.implementations import Implementation, build_kiln
from benchmarks.gpu_run.parts import LIMITS_S, choose_device, parse_part_arguments
from benchmarks.gpu_run.results import Results, free_memory, read_results
from benchmarks.gpu_run.turns import FULL, SMOKE
from benchmarks.gpu_run.workload import Workload
from components.training.precision import synchronize

_STEPS = 16
"""Steps of a turn, an epoch of ResNet-50.

Totals come one step late, so that the last one of an epoch comes without a step, and the first of
the next after two. A turn of a whole epoch has all of its steps wherever it begins.
"""
_KERNELS = 12
_MAX_NAME = 100
_LAST_CASE_S = 15.0


def main() -> None:
    out, smoke = parse_part_arguments()
    results = Results(out, "profiling")
    ceiling = _read_ceiling(out)
    end = time.monotonic() + LIMITS_S["profiling"] - _LAST_CASE_S
    for case in map(shrink, SMOKE_CASES) if smoke else CASES:
        if time.monotonic() > end:
            results.add(case.name, skipped="no time left")
            continue
        with results.attempt(case.name):
            _profile_case(case, results, ceiling, smoke)
        free_memory()


def _read_ceiling(out: Path) -> float | None:
    """Return the TFLOP/s of a bf16 product that the part `machine` measured, if it did."""
    for record in read_results(out, "machine"):
        if record["name"] == "bf16 matmul" and "tflops" in record:
            return float(record["tflops"])
    return None


def _profile_case(case: StepCase, results: Results, ceiling: float | None, smoke: bool) -> None:
    """Measure and profile Kiln's step of one case."""
    count = 1 if smoke else _STEPS
    device = choose_device()
    workload = Workload(case, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    kiln = build_kiln(workload)
    with kiln.settings(device):
        _run(kiln, (SMOKE if smoke else FULL).warm_up_steps, device)
        step_s = min(_run(kiln, count, device) for _ in range(3))
        tflops = case.batch * count_flops(workload.network) / step_s / 1e12
        values = {"step_ms": 1e3 * step_s, "images_per_s": case.batch / step_s, "tflops": tflops}
        if ceiling:
            values["share_of_matmul"] = tflops / ceiling
        if device.type == "cuda":
            values["peak_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            values["reserved_memory_gib"] = torch.cuda.memory_reserved(device) / 2**30
        # The profiler may fail. What was measured before must not be lost.
        results.add(case.name, **values)
        if device.type != "cuda":
            results.add(f"{case.name}: kernels", skipped="no GPU")
            return
        kernels, launches = _record_kernels(lambda: _run(kiln, count, device))
    busy_s = union_s((start, end) for _, start, end in kernels) / count
    longest, others_ms = summarize_kernels(kernels, count)
    results.add(
        f"{case.name}: kernels",
        busy_share=busy_s / step_s,
        busy_ms=1e3 * busy_s,
        kernels_per_step=len(kernels) / count,
        graph_launches_per_step=launches / count,
        ms_per_step=longest,
        others_ms=others_ms,
    )


def _run(kiln: Implementation, count: int, device: torch.device) -> float:
    """Make `count` steps and return the mean seconds of one."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        kiln.step()
    kiln.read_loss()
    synchronize(device)
    return (time.perf_counter() - start) / count


Kernel = tuple[str, float, float]
"""Name, start and end (in seconds) of a kernel or of a copy on the GPU."""


def _record_kernels(function: Callable[[], object]) -> tuple[list[Kernel], int]:
    """Run `function`; return all that the GPU did, and the number of CUDA graphs launched."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        function()
    events = list(profiled.events() or ())
    kernels = [
        (event.name, event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in events
        if event.device_type.name == "CUDA" and not event.is_user_annotation
    ]
    return kernels, sum("GraphLaunch" in event.name for event in events)


def union_s(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals: kernels of several streams may overlap."""
    total = 0.0
    last = float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total


def summarize_kernels(kernels: Iterable[Kernel], steps: int) -> tuple[dict[str, float], float]:
    """Return the milliseconds a step of the longest kernels by name, and of all others together."""
    totals: dict[str, float] = defaultdict(float)
    for name, start, end in kernels:
        totals[name[:_MAX_NAME]] += 1e3 * (end - start) / steps
    ordered = sorted(totals.items(), key=lambda item: -item[1])
    return dict(ordered[:_KERNELS]), sum(ms for _, ms in ordered[_KERNELS:])


if __name__ == "__main__":
    main()
