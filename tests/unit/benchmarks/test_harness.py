"""Cases as processes of their own, and the page that they end in."""

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
from benchmarks.model import Case, Settings, Target, Theme, ratio


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logs of failures go here rather than into the checkout."""
    monkeypatch.setattr(harness, "KEPT", tmp_path / "kept")
    return tmp_path / "kept"


WRITE = "import json, sys; json.dump({'values': {'rate': %s}, 'notes': ['a note']}, open(sys.argv[1], 'w'))"


def case(name: str, value: str = "1.0", **more: object) -> Case:
    return Case(name, [sys.executable, "-c", WRITE % value, "{result}", "{round}"], **more)  # type: ignore[arg-type]


def theme(*cases: Case) -> Theme:
    return Theme(
        name="t", title="T", metric="rate", unit="per s", cases=list(cases), conditions=["equal"],
        targets=[Target("1", "a to b", ratio("a", "b", "rate"), 2.0)],
    )  # fmt: skip


def measured(tmp_path: Path, *cases: Case, repeats: int = 3) -> tuple[harness.Measured, list[str]]:
    lines: list[str] = []
    return harness.measure(theme(*cases), Settings(repeats, False, tmp_path), lines.append), lines


def page(found: harness.Measured, *cases: Case, load: float = 0.0, smoke: bool = False) -> str:
    return report.page(theme(*cases), found, {"commit": "abc"}, load, "t_x", datetime(2026, 11, 20, tzinfo=UTC), smoke)


def test_rounds_interleave_the_cases_and_begin_with_another_each(tmp_path: Path) -> None:
    found, lines = measured(tmp_path, case("a"), case("b"))
    assert [line.split(": ")[2] for line in lines] == ["a", "b", "b", "a", "a", "b"]
    assert [set(figures) for figures in found.rounds] == [{"a", "b"}] * 3
    assert all(values["wall_s"] > 0 for figures in found.rounds for values in figures.values())


def test_a_case_knows_its_round_and_shares_no_state_with_the_next(tmp_path: Path) -> None:
    found, _ = measured(tmp_path, case("a", "int(sys.argv[2]) + len(__import__('os').listdir())", cwd=tmp_path), repeats=2)
    first, second = (figures["a"]["rate"] for figures in found.rounds)
    assert second == first + 1


def test_a_contender_that_is_not_installed_is_skipped_by_name(tmp_path: Path) -> None:
    cases = case("a"), case("b", needs=("no_such_module",))
    found, lines = measured(tmp_path, *cases)
    assert lines[0] == "t: b: SKIPPED: no_such_module not installed"
    text = page(found, *cases)
    assert "| b | SKIPPED: no_such_module not installed |" in text
    assert "NOT MEASURED; nothing from b" in text


@pytest.mark.parametrize(
    ("code", "told"), [("raise SystemExit('out of luck')", "exit code 1: out of luck"), ("", "wrote no figures")]
)
def test_a_contender_that_fails_is_told_and_the_others_go_on(tmp_path: Path, kept: Path, code: str, told: str) -> None:
    broken = Case("b", [sys.executable, "-c", code, "{result}"])
    found, lines = measured(tmp_path, case("a"), broken, repeats=1)
    assert any("b: FAILED: " + told in line for line in lines)
    assert found.rounds[0].keys() == {"a"}
    assert len(list((kept / "failed").iterdir())) == 1
    assert "b FAILED in round 1" in page(found, case("a"), broken)


def test_a_contender_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    script = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    with pytest.raises(harness.CaseError, match="took more than 5 s"):
        harness.run(Case("a", [sys.executable, "-c", script], timeout_s=5), 0, tmp_path)
    child = int((tmp_path / "0-a" / "log.txt").read_text())
    process = psutil.Process(child) if psutil.pid_exists(child) else None
    assert process is None or process.status() == psutil.STATUS_ZOMBIE or psutil.wait_procs([process], timeout=30)[0]


def test_contenders_do_not_see_the_callers_servers_or_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = harness.environment()
    assert found.keys().isdisjoint({"MLFLOW_TRACKING_URI", "RAY_ADDRESS"})
    assert found["OMP_NUM_THREADS"] == "1"


def test_the_page_has_target_ratio_and_verdict_and_the_csv_every_number(tmp_path: Path) -> None:
    cases = case("a", "5 + int(sys.argv[2])"), case("b", "2")
    found, _ = measured(tmp_path, *cases)
    text = page(found, *cases)
    assert "| 1. a to b | >= 2 | 3 (2.5 to 3.5) | met |" in text
    assert "- commit: abc" in text
    assert "not quiet" not in text
    rows = list(csv.DictReader(io.StringIO(report.raw(found))))
    assert [float(r["value"]) for r in rows if (r["case"], r["metric"]) == ("a", "rate")] == [5, 6, 7]
    assert report.picture(theme(*cases), found).startswith(b"\x89PNG")


def test_a_busy_machine_and_a_smoke_run_say_so_before_any_figure(tmp_path: Path) -> None:
    found, _ = measured(tmp_path, case("a"), case("b"), repeats=1)
    for text in (page(found, case("a"), case("b"), load=3.0), page(found, case("a"), case("b"), smoke=True)):
        assert text.index("**") < text.index("| target |")


def test_a_score_is_taken_from_what_the_case_left(tmp_path: Path) -> None:
    scored = dataclasses.replace(case("a"), score=[sys.executable, "-c", "print(0.9)"])
    found, _ = measured(tmp_path, scored, repeats=1)
    assert found.rounds[0]["a"]["test_top1"] == 0.9
