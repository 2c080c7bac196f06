"""Cases in processes of their own, and the report of their results."""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from benchmarks import harness, report
from benchmarks.model import Case, Settings, Target, Theme, ratio_to_best


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder for the logs of failed cases, instead of the checkout's."""
    monkeypatch.setattr(harness, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


WRITE_RESULT = """
import json, sys
json.dump({"values": {"rate": %s}, "notes": ["a note"]}, open(sys.argv[1], "w"))
"""


def make_case(name: str, rate: str = "1.0", **fields: object) -> Case:
    """Make a case whose `rate` is a Python expression."""
    command = [sys.executable, "-c", WRITE_RESULT % rate, "{result}", "{round}"]
    return Case(name, command, **fields)  # type: ignore[arg-type]


def make_theme(*cases: Case) -> Theme:
    return Theme(
        name="t",
        title="T",
        metric="rate",
        unit="per s",
        cases=list(cases),
        conditions=["equal"],
        targets=[Target("1", "a to b", ratio_to_best("a", "b", "rate"), 2.0)],
    )


def run_cases(
    tmp_path: Path, *cases: Case, repeats: int = 3
) -> tuple[harness.Measurements, list[str]]:
    """Measure the cases; return the measurements and the lines that the user sees."""
    lines: list[str] = []
    settings = Settings(repeats, False, tmp_path)
    return harness.measure(make_theme(*cases), settings, lines.append), lines


def make_context(*, load: float = 0.0, smoke: bool = False) -> report.Context:
    return report.Context({"commit": "abc"}, load, datetime(2026, 11, 20, tzinfo=UTC), smoke)


def make_page(
    measurements: harness.Measurements, *cases: Case, load: float = 0.0, smoke: bool = False
) -> str:
    context = make_context(load=load, smoke=smoke)
    return report.format_page(make_theme(*cases), measurements, context, "t_x")


def test_rounds_run_every_case_and_begin_with_another_one(tmp_path: Path) -> None:
    measurements, lines = run_cases(tmp_path, make_case("a"), make_case("b"))
    assert [line.split(": ")[2] for line in lines] == ["a", "b", "b", "a", "a", "b"]
    assert [results.keys() for results in measurements.rounds] == [{"a", "b"}] * 3
    for results in measurements.rounds:
        assert all(values["wall_s"] > 0 for values in results.values())


def test_case_gets_its_round_and_runs_in_its_folder(tmp_path: Path) -> None:
    rate = "int(sys.argv[2]) + len(__import__('os').listdir())"
    measurements, _ = run_cases(tmp_path, make_case("a", rate, cwd=tmp_path), repeats=2)
    first, second = (results["a"]["rate"] for results in measurements.rounds)
    assert second == first + 1


def test_contender_that_is_not_installed_is_reported_as_skipped(tmp_path: Path) -> None:
    cases = make_case("a"), make_case("b", required_modules=("no_such_module",))
    measurements, lines = run_cases(tmp_path, *cases)
    assert lines[0] == "t: b: SKIPPED: no_such_module not installed"
    page = make_page(measurements, *cases)
    assert "| b | SKIPPED: no_such_module not installed |" in page
    assert "NOT MEASURED; nothing from b" in page


@pytest.mark.parametrize(
    ("code", "message"),
    [("raise SystemExit('out of luck')", "exit code 1: out of luck"), ("", "wrote no figures")],
)
def test_failed_contender_is_reported_and_the_others_run(
    tmp_path: Path, cache: Path, code: str, message: str
) -> None:
    broken = Case("b", [sys.executable, "-c", code, "{result}"])
    measurements, lines = run_cases(tmp_path, make_case("a"), broken, repeats=1)
    assert any("b: FAILED: " + message in line for line in lines)
    assert measurements.rounds[0].keys() == {"a"}
    assert len(list((cache / "failed").iterdir())) == 1
    assert "b FAILED in round 1" in make_page(measurements, make_case("a"), broken)


def test_hanging_contender_is_killed_with_its_children(tmp_path: Path) -> None:
    script = """
import subprocess, time
print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
"""
    case = Case("a", [sys.executable, "-c", script], timeout_s=5)
    with pytest.raises(harness.CaseError, match="took more than 5 s"):
        harness.run_case(case, 0, tmp_path)
    child = int((tmp_path / "0-a" / "log.txt").read_text())
    process = psutil.Process(child) if psutil.pid_exists(child) else None
    assert (
        process is None
        or process.status() == psutil.STATUS_ZOMBIE
        or psutil.wait_procs([process], timeout=30)[0]
    )


def test_contenders_do_not_get_the_users_servers_and_thread_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment = harness.case_environment()
    assert environment.keys().isdisjoint({"MLFLOW_TRACKING_URI", "RAY_ADDRESS"})
    assert environment["OMP_NUM_THREADS"] == "1"


def test_report_has_page_csv_and_chart(tmp_path: Path) -> None:
    cases = make_case("a", "5 + int(sys.argv[2])"), make_case("b", "2")
    measurements, _ = run_cases(tmp_path, *cases)
    stem = tmp_path / "results" / "t_x"
    paths = report.write(make_theme(*cases), measurements, make_context(), stem)
    page, table, chart = (path.read_bytes() for path in paths)
    assert "| 1. a to b | >= 2 | 3 (2.5 to 3.5) | met |" in page.decode()
    assert "- commit: abc" in page.decode()
    assert "not quiet" not in page.decode()
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    rates = [float(row["value"]) for row in rows if (row["case"], row["metric"]) == ("a", "rate")]
    assert rates == [5, 6, 7]
    assert chart.startswith(b"\x89PNG")


@pytest.mark.parametrize(("load", "smoke"), [(3.0, False), (0.0, True)])
def test_warning_about_load_or_smoke_precedes_the_results(
    tmp_path: Path, load: float, smoke: bool
) -> None:
    cases = make_case("a"), make_case("b")
    measurements, _ = run_cases(tmp_path, *cases, repeats=1)
    page = make_page(measurements, *cases, load=load, smoke=smoke)
    assert page.index("**") < page.index("| target |")


def test_score_command_adds_test_top1(tmp_path: Path) -> None:
    score_command = [sys.executable, "-c", "print(0.9)"]
    case = dataclasses.replace(make_case("a"), score_command=score_command)
    measurements, _ = run_cases(tmp_path, case, repeats=1)
    assert measurements.rounds[0]["a"]["test_top1"] == 0.9
