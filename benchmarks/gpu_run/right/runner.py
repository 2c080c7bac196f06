"""Order of the checks, and the processes that run them.

If such a process dies, hangs or loses the GPU, a new one goes on with the next check.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.gpu_run.parts import SMOKE_LIMIT_S
from benchmarks.gpu_run.results import Results
from benchmarks.gpu_run.right.curves import check_curves
from benchmarks.gpu_run.right.failures import check_divergence, check_out_of_memory
from benchmarks.gpu_run.right.invariance import (
    check_cuda_graphs,
    check_disk,
    check_graph_fallback,
    check_micro_batches,
)
from benchmarks.gpu_run.right.models import check_memory_format, check_probe, check_validation
from benchmarks.gpu_run.right.process_groups import finish_groups, start_groups
from benchmarks.gpu_run.right.repeats import check_repeatability
from benchmarks.gpu_run.right.resumptions import check_resume
from benchmarks.gpu_run.right.setup import Setup
from benchmarks.gpu_run.right.trials import CPU

CHECKS: dict[str, Callable[[Setup], None]] = {
    "curve": check_curves,
    "repeat": check_repeatability,
    "resume": check_resume,
    "graphs": check_cuda_graphs,
    "graph fallback": check_graph_fallback,
    "not finite": check_divergence,
    "validation": check_validation,
    "images from disk": check_disk,
    "channels-last": check_memory_format,
    "micro-batches": check_micro_batches,
    # The children must be gone before the probe measures and before memory runs out.
    "process groups": finish_groups,
    "probe": check_probe,
    "out of memory": check_out_of_memory,
}
"""All checks, in the order in which they run."""

CHECK_TIMEOUT_S = 60


def run_checks(out: Path, smoke: bool, names: list[str], begun: Connection) -> None:
    """Run the checks `names`; send the name of each before it begins."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else CPU
    setup = Setup(Results(out, "right"), device, smoke)
    if device == CPU:
        # On a CPU the weights depend on the number of threads; the ranks of a group have one.
        torch.set_num_threads(1)
    if "process groups" in names:
        start_groups(setup)
    for name in names:
        begun.send(name)
        start = time.monotonic()
        with setup.results.attempt(name):
            CHECKS[name](setup)
        setup.results.add("seconds", check=name, seconds=time.monotonic() - start)
        if device.type == "cuda":
            # Raises if the check lost the GPU, so that a new process goes on.
            torch.cuda.synchronize(device)


def run_worker(out: Path, smoke: bool, names: list[str]) -> list[str]:
    """Run checks in a new process; return those that it did not begin."""
    results = Results(out, "right")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=run_checks, args=(out, smoke, names, sender))
    worker.start()
    sender.close()
    remaining = names
    timeout_s = SMOKE_LIMIT_S if smoke else CHECK_TIMEOUT_S
    try:
        while receiver.poll(timeout_s):
            name = receiver.recv()
            remaining = names[names.index(name) + 1 :]
        results.add("worker", error=f"no progress for {timeout_s} s", remaining=remaining)
        worker.kill()
    except EOFError:  # the process has ended, or is about to
        worker.join(10)
        if worker.exitcode != 0:
            results.add("worker", error=f"exit code {worker.exitcode}", remaining=remaining)
            worker.kill()
    return remaining if remaining != names else []
