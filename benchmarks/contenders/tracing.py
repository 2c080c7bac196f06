"""Read the events that `benchmarks/trace/sitecustomize.py` logs in the processes of a command."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import import_environment
from components.paths import ROOT

OPTIMIZER_STEP = "components.training.state.TrainState.optimizer_step"
"""The traced function that does an optimiser step."""

TRAINING = "components.orchestration.trainer.Training.__init__"
"""The traced function that starts Ray Train."""

WORKER = "components.orchestration.worker.run_worker"
LOOP = "components.training.loop.train"


@dataclass(frozen=True)
class TraceEvent:
    """One line of a trace.

    `time` is in seconds since the epoch. `import_s` are the seconds that the process has spent on
    imports so far.
    """

    time: float
    pid: int
    name: str
    import_s: float


def traced_environment(trace: Path, *folders: Path, every: str | None = None) -> dict[str, str]:
    """Return the environment of a command whose processes log their events to `trace`.

    Args:
        folders: first entries of the processes' import path.
        every: a traced function whose calls are all logged. Of the others, only the first is.
    """
    environment = import_environment(ROOT / "benchmarks" / "trace", *folders)
    environment["KILN_BENCH_TRACE"] = str(trace)
    if every is not None:
        environment["KILN_BENCH_EVERY"] = every
    return environment


def read_trace(trace: Path) -> list[TraceEvent]:
    """Return the events that are completely written so far, in order of time."""
    if not trace.exists():
        return []
    lines = trace.read_text().splitlines(keepends=True)
    events = [TraceEvent(**json.loads(line)) for line in lines if line.endswith("}\n")]
    return sorted(events, key=lambda event: event.time)
