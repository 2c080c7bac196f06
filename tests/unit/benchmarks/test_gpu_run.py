"""The GPU run: its runner, its report and its parts on the CPU."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.contenders.stepping import make_random_images
from benchmarks.gpu_run import profiling
from benchmarks.gpu_run.__main__ import LOG, run
from benchmarks.gpu_run.cases import RESNET18, count_flops, shrink
from benchmarks.gpu_run.parts import LIMITS_S, TOTAL_S, Part
from benchmarks.gpu_run.report import write_report
from benchmarks.gpu_run.results import Results, read_results
from benchmarks.gpu_run.settings import free_settings, kiln_settings
from benchmarks.gpu_run.workload import Workload

CPU = torch.device("cpu")
HANGING = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""


def test_hanging_part_is_killed_with_its_children_and_the_next_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [
        Part("hangs", ("-c", HANGING), 3),
        Part("fails", ("-c", "raise SystemExit('the reason')"), 30),
        Part("works", ("-c", "print('done')"), 30),
    ]
    run(parts, tmp_path)
    output = capsys.readouterr().out
    assert "hangs: KILLED at its time limit" in output
    assert "fails: FAILED with exit code 1" in output
    assert "    the reason" in output
    assert "works: finished" in output
    log = (tmp_path / LOG).read_text()
    assert "done" in log
    child = int(log.split("child ")[1].split()[0])
    _wait_until_gone(child)
    assert (tmp_path / "report.md").is_file()


def _wait_until_gone(pid: int) -> None:
    """Wait until a process has ended; a killed one may stay as a zombie of another parent."""
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the child of the killed part is alive"
        time.sleep(0.1)


def test_parts_beyond_the_total_time_do_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run([Part("late", ("-c", "pass"), 30)], tmp_path, total_s=0)
    assert "late: not run" in capsys.readouterr().out


def test_attempt_records_an_error_and_goes_on(tmp_path: Path) -> None:
    results = Results(tmp_path, "part")
    with results.attempt("first"):
        raise ValueError("no good")
    results.add("second", value=float("inf"), path=tmp_path)
    first, second = read_results(tmp_path, "part")
    assert first["error"].startswith("ValueError: no good (test_gpu_run.py:")
    assert second["value"] == "inf"


def test_torn_line_is_left_out(tmp_path: Path) -> None:
    results = Results(tmp_path, "part")
    results.add("a")
    with results.path.open("a") as file:
        file.write('{"part": "part", "name": "b", "va')
    Results(tmp_path, "other").add("c")
    assert [record["name"] for record in read_results(tmp_path, "part")] == ["a"]
    assert [record["name"] for record in read_results(tmp_path, "other")] == ["c"]


def test_limits_of_all_parts_fit_into_the_whole_run() -> None:
    assert sum(LIMITS_S.values()) <= TOTAL_S


def test_report_compares_with_the_best_written_by_hand(tmp_path: Path) -> None:
    steps = Results(tmp_path, "steps")
    for name, rate in (("kiln", 90.0), ("plain", 50.0), ("graph", 100.0), ("timm", 20.0)):
        steps.add(
            "a", implementation=name, images_per_s=rate, low=rate, high=rate, step_ms=1.0, note="x"
        )
    steps.add("a", implementation="compile", skipped="no time left")
    steps.add("b: plain", error="RuntimeError: no")
    checks = Results(tmp_path, "right")
    checks.add("curve", value=1e-4, tolerance=1e-3, ok=True)
    checks.add("digest", ok=False)
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| kiln | 90 | 90 to 90 | 0.900 | 1.000 | note: x |" in text
    assert "| compile |  |  |  |  | skipped: no time left |" in text
    assert "| b: plain | error: RuntimeError: no |" in text
    assert "1 of 2 right, 0 skipped." in text
    assert "| digest |  |  | **NO** |" in text


def test_settings_hold_for_one_turn_only() -> None:
    before = torch.get_deterministic_debug_mode()
    with kiln_settings(CPU):
        assert torch.get_deterministic_debug_mode() == 2
        assert not torch.backends.cudnn.benchmark
    with free_settings(CPU):
        assert torch.get_deterministic_debug_mode() == 0
        assert torch.backends.cudnn.benchmark
    assert torch.get_deterministic_debug_mode() == before
    assert not torch.backends.cudnn.benchmark


def test_batches_are_normalised_crops_in_channels_last() -> None:
    case = shrink(RESNET18)
    workload = Workload(case, CPU)
    images, labels = workload.batches.draw()
    assert images.shape == (case.batch, 3, case.side, case.side)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == (case.batch,)
    # Padding is black, which is the smallest value of normalised images.
    smallest = (0 - 128) / 74
    assert images.min() == pytest.approx(smallest, rel=1e-5)


def test_overlapping_kernels_count_once() -> None:
    assert profiling.union_s([(4, 5), (0, 2), (1, 3), (1.5, 1.6)]) == 4
    kernels = [(f"k{n}", 0.0, 1e-3 * n) for n in range(1, 15)]
    longest, others_ms = profiling.summarize_kernels(kernels, 2)
    assert next(iter(longest.items())) == ("k14", pytest.approx(7.0))
    assert others_ms == pytest.approx(1.5)


def test_flops_of_resnet18_agree_with_torchvision() -> None:
    """torchvision gives 1.814e9 multiplications for one image of 224 x 224 x 3.

    The backward pass has twice as many, except that the images need no gradient.
    """
    network, _, _ = make_random_images("resnet18", 224, 1)
    first_convolution = 64 * 3 * 7 * 7 * 112 * 112
    missing_classes = 512 * 990  # torchvision's network has 1000, this one ten
    expected = 2 * (3 * (1.814e9 - missing_classes) - first_convolution)
    assert count_flops(network) == pytest.approx(expected, rel=1e-3)
