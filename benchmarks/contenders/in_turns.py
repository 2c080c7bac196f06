"""Kiln's loop under Ray Train and under torchrun, both at work, one of them stopped at any moment: `WORK BLOCKS RESULT SEED`.

The machine's own pace changes by several times what they differ. So both are started, and then turns of a few seconds are
compared with their neighbours. All processes of the other one are stopped (SIGSTOP), Ray's servants among them.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.contenders.common import Work, importing, report
from benchmarks.contenders.first_step import read
from components.provenance import ROOT

_STEP = "components.training.state.State.advance"
_TURN_S, _SETTLE_S, _START_S, _FIRST_STEPS = 5.0, 0.5, 120, 10
# Longer steps are no steps: an epoch's validation lies between two of them.
_PAUSE = 4


class Contender:
    def __init__(self, command: Sequence[str], folder: Path) -> None:
        folder.mkdir(parents=True)
        self.trace = folder / "trace.jsonl"
        environment = importing(ROOT / "benchmarks" / "trace") | {
            "KILN_BENCH_TRACE": str(self.trace),
            "KILN_BENCH_EVERY": _STEP,
        }
        self.root = subprocess.Popen(command, env=environment)
        self.family: list[psutil.Process] = []

    def steps(self) -> list[float]:
        """When the first of the processes that train ended each of its steps."""
        ends = [event for event in read(self.trace) if event["what"] == f"{_STEP} ends"]
        return [event["t"] for event in ends if event["pid"] == ends[0]["pid"]]

    def ready(self) -> None:
        until = time.monotonic() + _START_S
        while len(self.steps()) < _FIRST_STEPS:
            if self.root.poll() is not None or time.monotonic() > until:
                sys.exit(f"{self.root.args!r} made no steps")
            time.sleep(0.5)
        parent = psutil.Process(self.root.pid)
        self.family = [parent, *parent.children(recursive=True)]

    def hold(self) -> None:
        for process in self.family:
            process.suspend()

    def turn(self) -> tuple[float, float]:
        """Works for a moment; returns from when to when it is to be judged."""
        for process in reversed(self.family):
            process.resume()
        time.sleep(_SETTLE_S)
        begun = time.time()
        time.sleep(_TURN_S)
        self.hold()
        return begun, begun + _TURN_S

    def end(self) -> None:
        for process in self.family:
            process.kill()
        self.root.kill()
        self.root.wait()


def seconds(steps: Sequence[float], window: tuple[float, float]) -> float:
    """Mean length of a step within a window, pauses left out."""
    inside = [t for t in steps if window[0] <= t <= window[1]]
    lengths = [b - a for a, b in itertools.pairwise(inside)]
    usual = statistics.median(lengths)
    return statistics.fmean(length for length in lengths if length < _PAUSE * usual)


@contextmanager
def both(commands: Sequence[Sequence[str]], folder: Path) -> Iterator[list[Contender]]:
    contenders: list[Contender] = []
    try:
        for n, command in enumerate(commands):
            contenders.append(Contender(command, folder / str(n)))
            contenders[-1].ready()
            contenders[-1].hold()
        yield contenders
    finally:
        for contender in contenders:
            contender.end()


def main() -> None:
    file, blocks, result, seed = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    work = replace(Work(**json.loads(file.read_text())), epochs=1000)  # they are ended, they do not end
    wanted = work.write(result.parent / "work.json")

    def words(module: str, name: str) -> list[str]:
        return [f"benchmarks.contenders.{module}", str(wanted), str(result.parent / f"{name}.json"), seed]

    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(work.processes), "--module"]
    commands = [
        [sys.executable, "-m", *words("kiln_ray", "ray")],
        [sys.executable, "-m", *torchrun, *words("kiln_loop", "torchrun")],
    ]
    with both(commands, result.parent) as (ray, plain):
        turns = [(ray.turn(), plain.turn()) for _ in range(blocks)]
        taken = ray.steps(), plain.steps()
    lengths = [(seconds(taken[0], a), seconds(taken[1], b)) for a, b in turns]
    # With the turn before it and the one after it, so that what drifts evenly is nobody's.
    ratios = [
        (plain_before + plain_after) / 2 / under_ray
        for (_, plain_before), (under_ray, plain_after) in itertools.pairwise(lengths)
    ]
    values: dict[str, Any] = {
        "images_per_s": work.global_batch / statistics.fmean(under_ray for under_ray, _ in lengths),
        "torchrun_images_per_s": work.global_batch / statistics.fmean(under_torchrun for _, under_torchrun in lengths),
        "ratio": statistics.fmean(ratios),
        "error": statistics.stdev(ratios) / len(ratios) ** 0.5,
    }
    report(result, values, [f"{blocks} turns of {_TURN_S:g} s each; `error` is the standard error of `ratio`"])


if __name__ == "__main__":
    main()
