"""Run a theme's cases in rounds, each case in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.data import CACHE
from benchmarks.model import Case, CaseResult, Settings, Theme
from components.paths import ROOT

# Some peers call `ray.init` without an address, which would join any cluster on this machine.
LOCAL_RAY = {"RAY_ADDRESS": "local"}
_REMOVED_PREFIXES = (
    "MLFLOW_",
    "RAY_",
    "DVC_",
    "KILN_",
    "OMP_",
    "MKL_",
    "PYTHONDONTWRITEBYTECODE",
)
_QUIET = {
    "TQDM_DISABLE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class CaseError(Exception):
    """A contender failed, took too long or wrote no result."""


@dataclass
class Measurements:
    """Everything that was measured for one theme.

    `skipped` and `failed` map a case to the reason why it has no metrics, in all rounds or in
    some. `notes` are those of the last round. `loads` are the machine's load averages before
    each case.
    """

    rounds: list[dict[str, dict[str, float]]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)


def measure(theme: Theme, settings: Settings, echo: Callable[[str], None]) -> Measurements:
    """Run all cases in `settings.repeats` rounds.

    Slow changes of the machine (temperature, other load) thus affect all cases alike. Each round
    begins with another case, so that no case always follows the same one.
    """
    measurements = Measurements(skipped=find_missing_modules(theme.cases))
    for name, reason in measurements.skipped.items():
        echo(f"{theme.name}: {name}: SKIPPED: {reason}")
    cases = [case for case in theme.cases if case.name not in measurements.skipped]
    for number in range(settings.repeats):
        results: dict[str, dict[str, float]] = {}
        measurements.rounds.append(results)
        for case in rotate(cases, number):
            label = f"{theme.name}: round {number + 1}/{settings.repeats}: {case.name}"
            measurements.loads.append(os.getloadavg()[0])
            try:
                result = run_case(case, number, settings.scratch / theme.name)
            except CaseError as error:
                measurements.failed[case.name] = f"round {number + 1}: {error}"
                echo(f"{label}: FAILED: {error}")
                continue
            results[case.name] = result.values
            measurements.notes[case.name] = result.notes
            values = ", ".join(f"{key} {value:,.4g}" for key, value in result.values.items())
            echo(f"{label}: {values}")
    return measurements


def find_missing_modules(cases: list[Case]) -> dict[str, str]:
    """Return the cases that cannot run, each with the modules that are not installed."""
    missing = {
        case.name: [
            module for module in case.required_modules if importlib.util.find_spec(module) is None
        ]
        for case in cases
    }
    return {
        name: f"{', '.join(modules)} not installed" for name, modules in missing.items() if modules
    }


def rotate(cases: list[Case], count: int) -> list[Case]:
    """Return the cases in the same cyclic order, `count` places further on."""
    if not cases:
        return []
    start = count % len(cases)
    return cases[start:] + cases[:start]


def run_case(case: Case, number: int, scratch: Path) -> CaseResult:
    """Run a case for round `number` and add its wall time and its score to the result.

    Raises:
        CaseError: the contender failed. A copy of its log stays in `CACHE`.
    """
    folder = scratch / f"{number}-{case.name.replace(' ', '-').replace('/', '-')}"
    folder.mkdir(parents=True)
    result_file = folder / "result.json"
    log = folder / "log.txt"
    command = [
        word.replace("{result}", str(result_file)).replace("{round}", str(number))
        for word in case.command
    ]
    if case.before is not None:
        case.before(number)
    wall_s = _run(case, command, log)
    result = CaseResult({})
    if result_file.exists():
        result = CaseResult(**json.loads(result_file.read_text()))
    elif "{result}" in " ".join(case.command):
        raise CaseError(f"wrote no figures ({_save_log(log)})")
    score = {"test_top1": _score(case)} if case.score_command else {}
    return replace(result, values={**result.values, **score, "wall_s": wall_s})


def _run(case: Case, command: list[str], log: Path) -> float:
    """Run the command, write its output to `log` and return its wall time in seconds."""
    with log.open("wb") as out:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=case.cwd or ROOT,
            env=case_environment() | dict(case.env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(case.timeout_s)
        except subprocess.TimeoutExpired:
            raise CaseError(f"took more than {case.timeout_s:g} s; {_save_log(log)}") from None
        finally:
            wall_s = time.perf_counter() - start
            _kill_session(process)
    if code:
        raise CaseError(f"exit code {code}: {_last_line(log)} ({_save_log(log)})")
    return wall_s


def _score(case: Case) -> float:
    done = subprocess.run(
        case.score_command, cwd=ROOT, env=case_environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise CaseError(f"its result could not be scored: {done.stderr.strip()[-300:]}")
    return float(done.stdout)


def case_environment() -> dict[str, str]:
    """Return the environment of a contender.

    The environment of this process is passed on, except the user's servers, clusters and thread
    counts. First-party code can be imported from any folder.
    """
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(_REMOVED_PREFIXES)
    }
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | _QUIET


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a contender that still runs, with its children: they would disturb the next one."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _save_log(log: Path) -> str:
    """Copy a log out of the scratch folder and return the copy's path."""
    saved = CACHE / "failed" / f"{log.parent.parent.name}-{log.parent.name}.txt"
    saved.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(log, saved)
    return os.path.relpath(saved)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"
