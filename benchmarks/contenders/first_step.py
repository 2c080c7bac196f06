"""Seconds from the start of Kiln's train stage to its first optimiser step, and where they go: `CHECKOUT RESULT`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.contenders.common import TRAIN, importing, report
from components.paths import ROOT

_STEP = "components.training.state.State.advance ends"
_LIMIT_S = 300


def main() -> None:
    checkout, result = Path(sys.argv[1]), Path(sys.argv[2])
    trace = result.parent / "trace.jsonl"
    environment = importing(ROOT / "benchmarks" / "trace", checkout) | {"KILN_BENCH_TRACE": str(trace)}
    begun = time.time()
    with subprocess.Popen([sys.executable, *TRAIN.split()], cwd=checkout, env=environment) as process:
        events: list[dict[str, Any]] = []
        while not any(event["what"] == _STEP for event in events):
            if process.poll() is not None or time.time() - begun > _LIMIT_S:
                process.kill()
                sys.exit(f"no optimiser step within {time.time() - begun:.0f} s")
            time.sleep(0.2)
            events = read(trace)
        process.send_signal(signal.SIGINT)  # it keeps a checkpoint and ends
        process.wait(60)
    first = next(event["t"] for event in events if event["what"] == _STEP)
    report(result, {"seconds": first - begun, **phases(events, process.pid, begun)}, timeline(events, begun, first))


def read(trace: Path) -> list[dict[str, Any]]:
    """Whole lines so far, in order of time."""
    if not trace.exists():
        return []
    return sorted(
        (json.loads(line) for line in trace.read_text().splitlines(True) if line.endswith("}\n")), key=lambda e: e["t"]
    )


def phases(events: list[dict[str, Any]], driver: int, begun: float) -> dict[str, float]:
    """The stretches of the way, one after the other, and imports of all processes together (they overlap)."""
    marks = [
        ("driver until ray.init", "ray.init begins"),
        ("ray.init", "ray.init ends"),
        ("until fit", "components.orchestration.trainer.fit begins"),
        ("until a worker runs", "components.orchestration.worker.run begins"),
        ("until the loop", "components.training.loop.train begins"),
        ("until the first step", _STEP),
    ]
    found, last = {}, begun
    for label, what in marks:
        at = next((event["t"] for event in events if event["what"] == what), None)
        if at is not None:
            found[f"{label}, s"], last = at - last, at
    imports: dict[int, float] = {}
    for event in events:
        imports[event["pid"]] = max(imports.get(event["pid"], 0.0), event["imports"])
    return found | {"imports of the driver, s": imports.get(driver, 0.0), "imports of all, s": sum(imports.values())}


def timeline(events: list[dict[str, Any]], begun: float, end: float) -> list[str]:
    """One row per event until the first step; `imports` are the process's own so far."""
    names: dict[int, str] = {}
    for event in events:
        names.setdefault(event["pid"], f"{len(names) + 1}")
    lines = ["| s | process | imports, s | event |", "|---|---|---|---|"]
    for event in events:
        if event["t"] <= end:
            what = event["what"].replace(str(ROOT), "").replace(sys.executable, "python").replace("|", "/")
            what = " ".join(Path(word).name if word.startswith("/") else word for word in what.split())
            lines.append(f"| {event['t'] - begun:.2f} | {names[event['pid']]} | {event['imports']:.2f} | {what} |")
    return lines


if __name__ == "__main__":
    main()
