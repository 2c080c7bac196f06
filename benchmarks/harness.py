"""Runs a theme's cases in rounds, each case in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.data import KEPT
from benchmarks.model import Case, Settings, Theme
from components.paths import ROOT

# For peers that leave `ray.init` to Ray, which would join whatever cluster runs on this machine.
OWN_RAY = {"RAY_ADDRESS": "local"}
_FOREIGN = ("MLFLOW_", "RAY_", "DVC_", "KILN_", "OMP_", "MKL_", "PYTHONDONTWRITEBYTECODE")


@dataclass
class Measured:
    """`skipped` and `failed` say of a case why it has no figures (in all rounds, or in some)."""

    rounds: list[dict[str, dict[str, float]]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)


def measure(theme: Theme, settings: Settings, say: Callable[[str], None]) -> Measured:
    """All cases once, then all again, `settings.repeats` times, so that what drifts (heat, neighbours) drifts for all of
    them. Each round begins with another case, so that none always follows the same."""
    measured = Measured(skipped=absent(theme.cases))
    for name, why in measured.skipped.items():
        say(f"{theme.name}: {name}: SKIPPED: {why}")
    there = [case for case in theme.cases if case.name not in measured.skipped]
    for number in range(settings.repeats):
        figures: dict[str, dict[str, float]] = {}
        measured.rounds.append(figures)
        for case in rotated(there, number):
            measured.loads.append(os.getloadavg()[0])
            try:
                values, notes = run(case, number, settings.scratch / theme.name)
            except CaseError as error:
                measured.failed[case.name] = f"round {number + 1}: {error}"
                say(f"{theme.name}: round {number + 1}/{settings.repeats}: {case.name}: FAILED: {error}")
                continue
            figures[case.name] = values
            measured.notes[case.name] = notes
            shown = ", ".join(f"{key} {value:,.4g}" for key, value in values.items())
            say(f"{theme.name}: round {number + 1}/{settings.repeats}: {case.name}: {shown}")
    return measured


def absent(cases: list[Case]) -> dict[str, str]:
    """Case -> what it lacks."""
    lacking = {case.name: [name for name in case.needs if importlib.util.find_spec(name) is None] for case in cases}
    return {name: f"{', '.join(modules)} not installed" for name, modules in lacking.items() if modules}


def rotated(cases: list[Case], by: int) -> list[Case]:
    if not cases:
        return []
    by %= len(cases)
    return cases[by:] + cases[:by]


class CaseError(Exception):
    """A contender ended badly or gave no figures."""


def run(case: Case, number: int, scratch: Path) -> tuple[dict[str, float], list[str]]:
    """Values and notes of one run."""
    folder = scratch / f"{number}-{case.name.replace(' ', '-').replace('/', '-')}"
    folder.mkdir(parents=True)
    result, log = folder / "result.json", folder / "log.txt"
    command = [word.replace("{result}", str(result)).replace("{round}", str(number)) for word in case.command]
    if case.before is not None:
        case.before(number)
    with log.open("wb") as out:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=case.cwd or ROOT, env=environment() | dict(case.env), stdout=out, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(case.timeout_s)
        except subprocess.TimeoutExpired:
            raise CaseError(f"took more than {case.timeout_s:g} s; {_keep(log)}") from None
        finally:
            wall = time.perf_counter() - start
            _end(process)
    if code:
        raise CaseError(f"exit code {code}: {_last_line(log)} ({_keep(log)})")
    found = json.loads(result.read_text()) if result.exists() else {"values": {}}
    if not result.exists() and "{result}" in " ".join(case.command):
        raise CaseError(f"wrote no figures ({_keep(log)})")
    scored = {"test_top1": _score(case)} if case.score else {}
    return {**found["values"], **scored, "wall_s": wall}, found.get("notes", [])


def _score(case: Case) -> float:
    done = subprocess.run(case.score, cwd=ROOT, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise CaseError(f"its result could not be scored: {done.stderr.strip()[-300:]}")
    return float(done.stdout)


def environment() -> dict[str, str]:
    """The caller's, without servers, clusters and thread counts of his own; first-party code importable from anywhere."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    quiet = {"TQDM_DISABLE": "1", "RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | quiet


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole group of a contender that would not end, so that it does not disturb the next."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
        process.wait()


def _keep(log: Path) -> str:
    """Its log outlives the scratch folder."""
    kept = KEPT / "failed" / f"{log.parent.parent.name}-{log.parent.name}.txt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(log, kept)
    return os.path.relpath(kept)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"
