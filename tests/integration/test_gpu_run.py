"""The GPU run, rehearsed on the CPU: `--smoke` of its largest parts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu_run.__main__ import LOG
from benchmarks.gpu_run.cases import RESNET18, shrink
from benchmarks.gpu_run.results import RESULTS, read_results
from benchmarks.gpu_run.right.runner import CHECKS
from components.paths import ROOT


def test_smoke_run_writes_results_and_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_run", "--smoke", "--parts", "machine,steps"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished") == 2, done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        LOG,
        "report.md",
        RESULTS,
    ]
    machine = {record["name"]: record for record in read_results(tmp_path, "machine")}
    assert machine["fp32 matmul"]["tflops"] > 0
    steps = read_results(tmp_path, "steps")
    case = shrink(RESNET18).name
    rates = {r["implementation"] for r in steps if r["name"] == case and "images_per_s" in r}
    assert {"kiln", "kiln_eager", "plain", "torchvision"} <= rates
    assert f"### {case}" in (tmp_path / "report.md").read_text()


def test_all_checks_pass_in_a_smoke_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_run.right", str(tmp_path), "--smoke"]
    subprocess.run(command, cwd=ROOT, check=True)
    records = read_results(tmp_path, "right")
    assert not [record for record in records if "error" in record or record.get("ok") is False]
    assert {record["check"] for record in records if record["name"] == "seconds"} == {*CHECKS}
