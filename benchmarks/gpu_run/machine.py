"""Part `machine`: the machine, its versions and its ceilings."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable

import torch

from benchmarks.gpu_run.parts import choose_device, parse_part_arguments
from benchmarks.gpu_run.results import Results
from benchmarks.machine import library_version
from components import provenance
from components.training.precision import synchronize

_GIB = 2**30
_SMI = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"
_LIBRARIES = ("torchvision", "numpy", "triton", "timm", "lightning", "accelerate", "onnxruntime")


def main() -> None:
    out, smoke = parse_part_arguments()
    results = Results(out, "machine")
    device = choose_device()
    with results.attempt("machine"):
        results.add("machine", **_describe_machine())
    with results.attempt("gpu"):
        _add_gpu(results, device)
    with results.attempt("device copy"):
        _measure_device_copy(results, device)
    with results.attempt("host copy"):
        _measure_host_copies(results, device)
    size = 256 if smoke else 8192
    for precision in ("bf16", "tf32", "fp32"):
        name = f"{precision} matmul"
        with results.attempt(name):
            results.add(name, tflops=_measure_matmul(precision, size, device), size=size)


def _describe_machine() -> dict[str, str]:
    """Return facts about the processor, the versions and the commit."""
    state = provenance.git_state()
    changed = "" if state["git.dirty"] == "false" else " (with changes, or unknown)"
    cores = len(os.sched_getaffinity(0))
    return {
        "processor": f"{provenance.cpu_model()}, {cores} cores",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "libraries": ", ".join(f"{name} {library_version(name)}" for name in _LIBRARIES),
        "commit": state["git.commit"] + changed,
    }


def _add_gpu(results: Results, device: torch.device) -> None:
    """Write facts about the GPU."""
    if device.type != "cuda":
        results.add("gpu", skipped="no GPU")
        return
    properties = torch.cuda.get_device_properties(device)
    results.add(
        "gpu",
        card=properties.name,
        memory_gib=round(properties.total_memory / _GIB, 1),
        multiprocessors=properties.multi_processor_count,
    )
    command = ["nvidia-smi", f"--query-gpu={_SMI}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    results.add("nvidia-smi", fields=_SMI, values=done.stdout.strip())


def _measure_device_copy(results: Results, device: torch.device) -> None:
    """Measure a copy within the device's memory, in GB/s of bytes read and written."""
    if device.type != "cuda":
        results.add("device copy", skipped="no GPU")
        return
    source = torch.empty(4 * _GIB, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    seconds = measure_seconds(lambda: target.copy_(source), 10, device)
    results.add("device copy", gb_per_s=2 * len(source) / seconds / 1e9)


def _measure_host_copies(results: Results, device: torch.device) -> None:
    """Measure copies of 1 GiB from pinned and from pageable memory to the device, in GB/s."""
    if device.type != "cuda":
        results.add("host copy", skipped="no GPU")
        return
    target = torch.empty(_GIB, dtype=torch.uint8, device=device)
    pageable = torch.ones(_GIB, dtype=torch.uint8)
    for kind, source in (("pageable", pageable), ("pinned", pageable.pin_memory())):
        seconds = measure_seconds(lambda: target.copy_(source, non_blocking=True), 4, device)  # noqa: B023
        results.add(f"host copy, {kind}", gb_per_s=len(source) / seconds / 1e9)


def _measure_matmul(precision: str, size: int, device: torch.device) -> float:
    """Return the TFLOP/s of a product of two random square matrices."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = measure_seconds(lambda: torch.mm(a, b), 10, device)
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * size**3 / seconds / 1e12


def measure_seconds(function: Callable[[], object], count: int, device: torch.device) -> float:
    """Return the seconds of one call: the best of three means over `count`, after three calls."""
    for _ in range(3):
        function()
    means = []
    for _ in range(3):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(count):
            function()
        synchronize(device)
        means.append((time.perf_counter() - start) / count)
    return min(means)


if __name__ == "__main__":
    main()
