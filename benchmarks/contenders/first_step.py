"""Seconds from the start of Kiln's train stage to its first optimiser step: `CHECKOUT RESULT`.

The result also has the duration of each phase on the way, and the time of all imports.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders.common import write_result
from benchmarks.contenders.tracing import (
    LOOP,
    OPTIMIZER_STEP,
    TRAINING,
    WORKER,
    TraceEvent,
    read_trace,
    traced_environment,
)
from benchmarks.processes import TRAIN
from components.paths import ROOT

FIRST_STEP = f"{OPTIMIZER_STEP} ends"
PHASES = {
    "driver until ray.init": "ray.init begins",
    "ray.init": "ray.init ends",
    "until fit": f"{TRAINING} begins",
    "until a worker runs": f"{WORKER} begins",
    "until the loop": f"{LOOP} begins",
    "until the first step": FIRST_STEP,
}
"""Phases in order of time, each with the event that ends it."""

_TIMEOUT_S = 300


def main() -> None:
    checkout = Path(sys.argv[1])
    result = Path(sys.argv[2])
    trace = result.parent / "trace.jsonl"
    start = time.time()
    with subprocess.Popen(TRAIN, cwd=checkout, env=traced_environment(trace, checkout)) as process:
        events = _wait_for_first_step(process, trace, start)
        process.send_signal(signal.SIGINT)  # the stage saves a checkpoint and ends
        process.wait(60)
    end = find_event(events, FIRST_STEP).time
    values = {"seconds": end - start}
    values |= measure_phases(events, start) | measure_imports(events, process.pid)
    write_result(result, values, format_timeline(events, start, end))


def _wait_for_first_step(
    process: subprocess.Popen[bytes], trace: Path, start: float
) -> list[TraceEvent]:
    while True:
        events = read_trace(trace)
        if any(event.name == FIRST_STEP for event in events):
            return events
        seconds = time.time() - start
        if process.poll() is not None or seconds > _TIMEOUT_S:
            process.kill()
            sys.exit(f"no optimiser step within {seconds:.0f} s")
        time.sleep(0.2)


def find_event(events: Sequence[TraceEvent], name: str) -> TraceEvent:
    """Return the first event of this name. Exit if there is none."""
    for event in events:
        if event.name == name:
            return event
    sys.exit(f"the trace has no event {name!r}")


def measure_phases(events: Sequence[TraceEvent], start: float) -> dict[str, float]:
    """Return the seconds of each of `PHASES`. Their sum is the time to the first step."""
    seconds = {}
    for label, name in PHASES.items():
        end = find_event(events, name).time
        seconds[f"{label}, s"] = end - start
        start = end
    return seconds


def measure_imports(events: Sequence[TraceEvent], driver: int) -> dict[str, float]:
    """Return the import time of the driver (a process id) and of all processes together.

    Processes import at the same time, so that the sum may exceed the time to the first step.
    """
    import_s: dict[int, float] = {}
    for event in events:
        import_s[event.pid] = max(import_s.get(event.pid, 0.0), event.import_s)
    return {
        "imports of the driver, s": import_s.get(driver, 0.0),
        "imports of all, s": sum(import_s.values()),
    }


def format_timeline(events: Sequence[TraceEvent], start: float, end: float) -> list[str]:
    """Return a table of the events until `end`, with processes numbered in order of appearance."""
    numbers: dict[int, int] = {}
    for event in events:
        numbers.setdefault(event.pid, len(numbers) + 1)
    lines = ["| s | process | imports, s | event |", "|---|---|---|---|"]
    for event in events:
        if event.time <= end:
            seconds = event.time - start
            lines.append(
                f"| {seconds:.2f} | {numbers[event.pid]} | {event.import_s:.2f} "
                f"| {_shorten(event.name)} |"
            )
    return lines


def _shorten(name: str) -> str:
    """Remove the paths of this machine from an event's name, and `|`, which ends a table's cell."""
    name = name.replace(str(ROOT), "").replace(sys.executable, "python").replace("|", "/")
    return " ".join(Path(word).name if word.startswith("/") else word for word in name.split())


if __name__ == "__main__":
    main()
