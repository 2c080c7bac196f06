"""Part `steps`: images per second of one training step, in several implementations.

The implementations of a case are built and warmed up together. Then they run in turns, in an order
that rotates from round to round. Lightning has a loop of its own, and is measured after them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmarks.gpu_run import implementations
from benchmarks.gpu_run.cases import (
    CASES,
    RESNET18,
    RESNET50,
    SMOKE_CASES,
    StepCase,
    shrink,
)
from benchmarks.gpu_run.implementations import Implementation
from benchmarks.gpu_run.parts import choose_device, get_limit_s, parse_part_arguments
from benchmarks.gpu_run.results import Results, free_memory
from benchmarks.gpu_run.settings import free_settings
from benchmarks.gpu_run.turns import FULL, SMOKE, Runner
from benchmarks.gpu_run.workload import Workload

COMPILE = "compile"
BUILDERS: Mapping[str, Callable[[Workload], Implementation]] = {
    "kiln": implementations.build_kiln,
    "graph": implementations.build_graph,
    "plain": implementations.build_plain,
    "graph_deterministic": implementations.build_graph_deterministic,
    "kiln_eager": implementations.build_kiln_eager,
    "torchvision": implementations.build_torchvision,
    "timm": implementations.build_timm,
    COMPILE: implementations.build_compiled,
}
"""The implementations that take turns, the most important first."""
LIGHTNING = "lightning"
SHARDS = "kiln_shards"
_START_S = 20.0
"""Time for imports, and for the last turn after the last deadline."""
_EXPECTED_COMPILE_S = {"cnn": 15.0, "resnet20": 25.0, "resnet18": 25.0}
_RESNET50_COMPILE_RATIO = 2.7
_MAX_COMPILE_S = 60.0
_BUILD_S = 2.0
_LIGHTNING_S = 5.0
_MIN_COMPILED_BATCH = 256


class Clock:
    """The time of this part. Each case has a deadline. What it leaves is added to the next case."""

    def __init__(self, limit_s: float) -> None:
        self.end = time.monotonic() + limit_s
        self.deadline = time.monotonic()

    def begin_case(self, budget_s: float) -> None:
        self.deadline = min(self.end, self.deadline + budget_s)

    def left_s(self) -> float:
        """Seconds until the deadline of the case."""
        return self.deadline - time.monotonic()


class Measurement:
    """The implementations of one case, measured within its deadline."""

    def __init__(self, case: StepCase, results: Results, clock: Clock, smoke: bool) -> None:
        self.case = case
        self.results = results
        self.clock = clock
        self.schedule = SMOKE if smoke else FULL
        self.device = choose_device()
        self.compile_s = _MAX_COMPILE_S
        self.workload = Workload(case, self.device)

    def run(self) -> None:
        """Measure all implementations of the case."""
        builders = {name: build for name, build in BUILDERS.items() if self._allow(name)}
        is_resnet50 = self.case.architecture == RESNET50.architecture
        if is_resnet50:  # It compiles for long, and does so last of all.
            builders.pop(COMPILE, None)
        if self._fits_together():
            self.measure(builders, note="in turns")
        else:
            for name, build in builders.items():
                self.measure({name: build}, note="one after the other: too little memory")
        self._measure_lightning()
        if is_resnet50:
            self._measure_shards()

    def _allow(self, name: str) -> bool:
        """Return whether an implementation can run here; record the reason if it cannot."""
        reason = ""
        if self.device.type != "cuda" and name in ("graph", "graph_deterministic", COMPILE):
            reason = "no GPU"
        elif name == COMPILE and self.case.batch < _MIN_COMPILED_BATCH:
            reason = "not measured at small batches, for time"
        if reason:
            self.results.add(self.case.name, implementation=name, skipped=reason)
        return not reason

    def _fits_together(self) -> bool:
        if self.device.type != "cuda":
            return True
        total = torch.cuda.get_device_properties(self.device).total_memory
        return total >= self.case.memory_gib * 2**30

    def measure(
        self, builders: Mapping[str, Callable[[Workload], Implementation]], note: str
    ) -> None:
        """Build and warm up implementations, let them take turns, and record their rates."""
        runners: dict[str, Runner] = {}
        for name, build in builders.items():
            if self._is_late(name, len(runners)):
                continue
            with self.results.attempt(f"{self.case.name}: {name}"):
                runners[name] = self._start(name, build)
        self._take_turns(runners)
        for name, runner in runners.items():
            if runner.turns.seconds:
                self._record(name, runner, note)
        runners.clear()
        free_memory()

    def _is_late(self, name: str, runners: int) -> bool:
        """Return whether there is no time to add an implementation; record it."""
        expected_s = _BUILD_S + 2 * self.schedule.turn_s * (runners + 1)
        if name == COMPILE:
            expected_s += _LIGHTNING_S + _EXPECTED_COMPILE_S[self.case.architecture]
        late = self.clock.left_s() < expected_s
        if late:
            self.results.add(self.case.name, implementation=name, skipped="no time left")
        return late

    def _start(self, name: str, build: Callable[[Workload], Implementation]) -> Runner:
        if self.device.type == "cuda":
            # Kiln captures no graph if the peak shows that the memory is too small for it.
            torch.cuda.reset_peak_memory_stats(self.device)
        # The settings that Kiln makes while it is built must not remain for the others.
        with free_settings(self.device):
            runner = Runner(build(self.workload), self.device)
        runner.warm_up(self.schedule)
        if name == COMPILE:
            self.compile_s = runner.turns.first_step_s
        return runner

    def _take_turns(self, runners: dict[str, Runner]) -> None:
        """Let all take turns, until all rounds are over or the deadline has passed.

        An implementation that fails is left out of the rounds that follow.
        """
        for number in range(self.schedule.rounds):
            names = list(runners)
            if not names or (number and self.clock.left_s() < 0):
                break
            for name in names[number % len(names) :] + names[: number % len(names)]:
                turns = len(runners[name].turns.seconds)
                with self.results.attempt(f"{self.case.name}: {name}"):
                    runners[name].take_turn()
                if len(runners[name].turns.seconds) == turns:
                    del runners[name]

    def _record(self, name: str, runner: Runner, note: str) -> None:
        values = runner.turns.summarize(self.case.batch)
        self.results.add(self.case.name, implementation=name, **values, note=note)

    def _measure_lightning(self) -> None:
        """Measure Lightning's loop, which cannot take turns with others."""
        name = LIGHTNING
        if self.clock.left_s() < _LIGHTNING_S:
            self.results.add(self.case.name, implementation=name, skipped="no time left")
            return
        with self.results.attempt(f"{self.case.name}: {name}"):
            from benchmarks.gpu_run.lightning_steps import measure_lightning

            turns = measure_lightning(self.workload, self.schedule, self.clock.deadline)
            self.results.add(
                self.case.name,
                implementation=name,
                **turns.summarize(self.case.batch),
                note="after the others, not in turns",
            )
        free_memory()

    def _measure_shards(self) -> None:
        """Measure Kiln with images that are read from a file on the disk."""
        with tempfile.TemporaryDirectory(prefix="kiln-gpu-run-") as folder:

            def build(workload: Workload) -> Implementation:
                return implementations.build_kiln_shards(workload, Path(folder))

            builders = {SHARDS: build, "kiln, beside kiln_shards": implementations.build_kiln}
            if self._fits_together():
                self.measure(builders, note="in turns with each other")
            else:
                self.measure({SHARDS: build}, note="alone; compare with kiln")


def measure_compiled_resnet50(measurement: Measurement, compile_s: float) -> None:
    """Measure ResNet-50 compiled, if that is expected to take less than a minute.

    The time is estimated from the number of layers and from ResNet-18's `compile_s`.
    """
    expected_s = compile_s * _RESNET50_COMPILE_RATIO
    available_s = measurement.clock.left_s() - _BUILD_S - 2 * FULL.turn_s
    if expected_s > min(_MAX_COMPILE_S, available_s):
        reason = f"it would compile for {expected_s:.0f} s of {available_s:.0f} s that are left"
        measurement.results.add(measurement.case.name, implementation=COMPILE, skipped=reason)
        return
    measurement.measure({COMPILE: implementations.build_compiled}, note="alone, at the end")


def main() -> None:
    out, smoke = parse_part_arguments()
    results = Results(out, "steps")
    limit_s = get_limit_s("steps", smoke)
    clock = Clock(limit_s - _START_S)
    compile_s = float("inf")
    for case in map(shrink, SMOKE_CASES) if smoke else CASES:
        clock.begin_case(limit_s if smoke else case.budget_s)
        with results.attempt(case.name):
            measurement = Measurement(case, results, clock, smoke)
            measurement.run()
            if case == RESNET18:
                compile_s = measurement.compile_s
        free_memory()
    if not smoke:
        clock.begin_case(limit_s)
        with results.attempt(RESNET50.name):
            measure_compiled_resnet50(Measurement(RESNET50, results, clock, smoke), compile_s)


if __name__ == "__main__":
    main()
