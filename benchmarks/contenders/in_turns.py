"""Kiln's loop under Ray Train and under torchrun, in turns: `WORKLOAD TURNS RESULT SEED`.

Where other processes run, the speed of the machine changes from one second to the next, by many
times the difference between the two. So both are started and take turns of 1.5 seconds. During a
turn, all processes of the other one are stopped (SIGSTOP), Ray's daemons included. The result
compares the steps that no other process has slowed down, and has their share.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.contenders.common import Workload, write_result
from benchmarks.contenders.tracing import OPTIMIZER_STEP, read_trace, traced_environment
from benchmarks.processes import contender_command, torchrun_command

_TURN_S = 1.5
_SETTLE_S = 0.3
_START_TIMEOUT_S = 120
_WARM_UP_STEPS = 10
# A step that takes this many times as long as a quick one counts as slowed down. Another process
# on the core doubles a step; Ray's daemons cost a few per cent.
_SLOW = 1.25
# An interval this many times as long contains the validation at the end of an epoch.
_PAUSE = 4
# The slowest step of the quickest fifth is the quick step that the others are compared with.
_QUICK_QUANTILE = 0.2


class Contender:
    """A command that trains, with all the processes that it starts."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        folder.mkdir(parents=True)
        self.trace = folder / "trace.jsonl"
        environment = traced_environment(self.trace, every=OPTIMIZER_STEP)
        self.root = subprocess.Popen(command, env=environment)
        self.processes: list[psutil.Process] = []

    def step_times(self) -> list[float]:
        """Return the times at which one rank ended its optimiser steps so far."""
        name = f"{OPTIMIZER_STEP} ends"
        ends = [event for event in read_trace(self.trace) if event.name == name]
        return [event.time for event in ends if event.pid == ends[0].pid]

    def wait_until_training(self) -> None:
        """Wait for the first steps. Exit if they do not come within two minutes."""
        end = time.monotonic() + _START_TIMEOUT_S
        while len(self.step_times()) < _WARM_UP_STEPS:
            if self.root.poll() is not None or time.monotonic() > end:
                sys.exit(f"{self.root.args!r} made no steps")
            time.sleep(0.5)
        root = psutil.Process(self.root.pid)
        self.processes = [root, *root.children(recursive=True)]

    def suspend(self) -> None:
        for process in self.processes:
            process.suspend()

    def run_turn(self) -> tuple[float, float]:
        """Let the contender train for one turn, and return the measurement window.

        The window begins a moment after the processes have been resumed.
        """
        for process in reversed(self.processes):
            process.resume()
        time.sleep(_SETTLE_S)
        begin = time.time()
        time.sleep(_TURN_S)
        self.suspend()
        return begin, begin + _TURN_S

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        self.root.kill()
        self.root.wait()


def step_durations(times: Sequence[float], windows: Sequence[tuple[float, float]]) -> list[float]:
    """Return the durations of the steps that lie completely within one of the windows."""
    return [
        end - begin
        for begin, end in itertools.pairwise(times)
        if any(window[0] <= begin and end <= window[1] for window in windows)
    ]


def compare(ray: Sequence[float], torchrun: Sequence[float]) -> dict[str, float]:
    """Return the metrics of both contenders from the durations of their steps in seconds."""
    quick = sorted([*ray, *torchrun])[int(_QUICK_QUANTILE * (len(ray) + len(torchrun)))]
    ray_all = [step for step in ray if step < _PAUSE * quick]
    torchrun_all = [step for step in torchrun if step < _PAUSE * quick]
    ray_undisturbed = [step for step in ray_all if step < _SLOW * quick]
    torchrun_undisturbed = [step for step in torchrun_all if step < _SLOW * quick]
    step_s = statistics.fmean(ray_undisturbed)
    torchrun_step_s = statistics.fmean(torchrun_undisturbed)
    return {
        "step_s": step_s,
        "torchrun_step_s": torchrun_step_s,
        "ratio": torchrun_step_s / step_s,
        "undisturbed": len(ray_undisturbed) / len(ray_all),
        "torchrun_undisturbed": len(torchrun_undisturbed) / len(torchrun_all),
        "ratio_of_all": statistics.fmean(torchrun_all) / statistics.fmean(ray_all),
    }


@contextmanager
def suspended_contenders(
    commands: Sequence[Sequence[str]], folder: Path
) -> Iterator[list[Contender]]:
    """Start the commands one by one and suspend each once it trains. Kill all at the end."""
    contenders: list[Contender] = []
    try:
        for number, command in enumerate(commands):
            contender = Contender(command, folder / str(number))
            contenders.append(contender)
            contender.wait_until_training()
            contender.suspend()
        yield contenders
    finally:
        for contender in contenders:
            contender.kill()


def main() -> None:
    workload_file = Path(sys.argv[1])
    turns = int(sys.argv[2])
    result = Path(sys.argv[3])
    seed = sys.argv[4]
    # More epochs than fit into the turns: the contenders are killed after the last turn.
    workload = replace(Workload.read(workload_file), epochs=1000)
    endless = result.parent / "workload.json"
    workload.write(endless)
    ray_result = result.parent / "ray.json"
    torchrun_result = result.parent / "torchrun.json"
    commands = [
        contender_command("kiln_ray", endless, ray_result, seed),
        torchrun_command("kiln_loop", endless, torchrun_result, seed, processes=workload.processes),
    ]
    with suspended_contenders(commands, result.parent) as (ray, torchrun):
        ray_windows = []
        torchrun_windows = []
        for _ in range(turns):
            ray_windows.append(ray.run_turn())
            torchrun_windows.append(torchrun.run_turn())
        metrics = compare(
            step_durations(ray.step_times(), ray_windows),
            step_durations(torchrun.step_times(), torchrun_windows),
        )
    values = {"images_per_s": workload.global_batch / metrics["step_s"], **metrics}
    write_result(result, values, [f"{turns} turns of {_TURN_S:g} s each"])


if __name__ == "__main__":
    main()
