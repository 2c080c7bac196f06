"""Kiln's loop under Ray Train and under torchrun, both at work, one of them stopped at any moment: `WORK BLOCKS RESULT SEED`.

The machine's own pace changes by many times what they differ, from one second to the next where there are neighbours. So
both are started and take turns of a second or two, in which all processes of the other are stopped (SIGSTOP), Ray's servants
among them; and what counts are the steps that no neighbour disturbed, with their share beside it.
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

import psutil

from benchmarks.contenders.common import Work, importing, report
from benchmarks.contenders.first_step import read
from components.paths import ROOT

_STEP = "components.training.state.State.advance"
_TURN_S, _SETTLE_S, _START_S, _FIRST_STEPS = 1.5, 0.3, 120, 10
# A step that takes so many times as long as quick ones do was disturbed (neighbours double it, Ray's servants cost a few per
# cent); between two that are further apart lies an epoch's validation.
_DISTURBED, _PAUSE = 1.25, 4
_QUICK = 0.2  # the share of steps that are called quick


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


def lengths(steps: Sequence[float], windows: Sequence[tuple[float, float]]) -> list[float]:
    """Of the steps within one of the windows."""
    pairs = itertools.pairwise(steps)
    return [b - a for a, b in pairs if any(begin <= a and b <= end for begin, end in windows)]


def compared(ray: Sequence[float], plain: Sequence[float]) -> dict[str, float]:
    """Figures of the two from the lengths of their steps, in seconds."""
    quick = sorted([*ray, *plain])[int(_QUICK * (len(ray) + len(plain)))]
    whole = [[length for length in taken if length < _PAUSE * quick] for taken in (ray, plain)]
    calm = [[length for length in taken if length < _DISTURBED * quick] for taken in whole]
    return {
        "step_s": statistics.fmean(calm[0]),
        "torchrun_step_s": statistics.fmean(calm[1]),
        "ratio": statistics.fmean(calm[1]) / statistics.fmean(calm[0]),
        "undisturbed": len(calm[0]) / len(whole[0]),
        "torchrun_undisturbed": len(calm[1]) / len(whole[1]),
        "ratio_of_all": statistics.fmean(whole[1]) / statistics.fmean(whole[0]),
    }


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
        taken = [
            lengths(contender.steps(), windows)
            for contender, windows in zip((ray, plain), zip(*turns, strict=True), strict=True)
        ]
    found = compared(*taken)
    report(result, {"images_per_s": work.global_batch / found["step_s"], **found}, [f"{blocks} turns of {_TURN_S:g} s each"])


if __name__ == "__main__":
    main()
