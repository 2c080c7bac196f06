"""Parts of the contenders, and the names in Kiln on which they rely."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.contenders import convolutions, first_step, in_turns, noop, tracing
from benchmarks.contenders.common import flip_randomly, steady_rate
from benchmarks.contenders.ray_example import AccuracyLog
from benchmarks.contenders.stage_memory import MemoryMonitor
from benchmarks.contenders.stepping import (
    iterate_steps,
    make_random_images,
    make_stepper,
    measure_step_s,
)
from benchmarks.contenders.tracing import TraceEvent
from components.paths import ROOT

TRACE_FOLDER = ROOT / "benchmarks" / "trace"


@pytest.fixture(scope="module")
def tracer() -> ModuleType:
    """The tracer as a module that is not installed in this process."""
    spec = importlib.util.spec_from_file_location("tracer", TRACE_FOLDER / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_steady_rate_leaves_out_the_first_epoch_unless_it_is_the_only_one() -> None:
    assert steady_rate(100, [50.0, 1.0, 3.0]) == 50.0
    assert steady_rate(100, [4.0]) == 25.0


def test_flip_is_drawn_for_each_image() -> None:
    images = torch.arange(64.0 * 4).reshape(64, 1, 1, 4)
    torch.manual_seed(0)
    result = flip_randomly(images)
    flipped = (result != images).flatten(1).any(1)
    assert 10 < flipped.sum() < 54
    assert torch.equal(result[flipped], images[flipped].flip(-1))


def test_stepper_with_constant_images_gets_the_same_batch_in_every_step() -> None:
    network, images, recipe = make_random_images("cnn", 12, 20)
    stepper = make_stepper(network, images, recipe, 8, 2, constant_images=True)
    measure_step_s(iterate_steps(stepper), 7)  # an epoch has three steps
    first = stepper.prefetcher.get((0, 0), torch.tensor([3, 1, 2, 0]))
    assert stepper.prefetcher.get((5, 1), torch.tensor([9, 8, 7, 6])) is first


def test_convolution_sweep_runs_all_convolutions_of_the_network() -> None:
    network, images, recipe = make_random_images("resnet20", 16, 4)
    model = make_stepper(network, images, recipe, 4, 1).state.model
    pixels = torch.from_numpy(images.pixels)
    sweep = convolutions.make_convolution_sweep(model, pixels, torch.float32)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        sweep()
    calls = sorted(
        (event for event in profiled.events() if event.name == "aten::conv2d"),
        key=lambda event: event.time_range.start,
    )
    assert len(calls) == 19
    assert calls[0].input_shapes[0] == [4, 3, 16, 16]
    assert calls[-1].input_shapes[0] == [4, 64, 4, 4]


def test_every_watched_function_exists(tracer: ModuleType) -> None:
    for module, names in tracer.WATCHED.items():
        for name in names:
            function: object = importlib.import_module(module)
            for part in name.split("."):
                function = getattr(function, part)
            assert callable(function), f"{module}.{name}"


def test_every_event_that_the_contenders_look_for_is_watched(tracer: ModuleType) -> None:
    watched = {f"{module}.{name}" for module, names in tracer.WATCHED.items() for name in names}
    assert {event.rpartition(" ")[0] for event in first_step.PHASES.values()} <= watched
    assert tracing.OPTIMIZER_STEP in watched


def test_process_fails_if_a_watched_function_is_missing(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("")  # has no `init`
    done = _run_traced("import ray", tmp_path / "trace.jsonl", tmp_path)
    assert done.returncode
    assert "has no attribute 'init'" in done.stderr


def test_trace_has_the_first_call_and_the_import_time(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    script = """
from components.training import state, precision
for _ in range(2):
    try:
        precision.probe()
    except TypeError:
        pass
"""
    done = _run_traced(script, trace, ROOT)
    assert not done.returncode, done.stderr
    events = tracing.read_trace(trace)
    names = [event.name for event in events]
    probe = "components.training.precision.probe"
    assert names[0].startswith("process ")
    assert [name for name in names if name.startswith(probe)] == [
        f"{probe} begins",
        f"{probe} ends",
    ]
    assert 0.1 < events[-1].import_s < events[-1].time - events[0].time + 1


def _run_traced(script: str, trace: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = tracing.traced_environment(trace, folder)
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_phases_add_up_to_the_time_to_the_first_step() -> None:
    events = [
        TraceEvent(time=10.0 + n, pid=1 + n // 3, name=name, import_s=0.5 * n)
        for n, name in enumerate(first_step.PHASES.values())
    ]
    phases = first_step.measure_phases(events, 8.0)
    assert len(phases) == len(first_step.PHASES)
    assert sum(phases.values()) == 15.0 - 8.0
    assert first_step.measure_imports(events, 1) == {
        "imports of the driver, s": 1.0,
        "imports of all, s": 3.5,
    }


def test_missing_phase_ends_the_contender() -> None:
    with pytest.raises(SystemExit, match=r"no event 'ray\.init begins'"):
        first_step.measure_phases([], 0.0)


def test_timeline_ends_at_the_first_step_and_has_no_paths() -> None:
    events = [
        TraceEvent(8.5, 70, f"process {sys.executable} -m x {ROOT}/a|b", 0.0),
        TraceEvent(9.0, 71, "imported torch", 0.25),
        TraceEvent(9.5, 70, "later", 0.5),
    ]
    assert first_step.format_timeline(events, 8.0, 9.0)[2:] == [
        "| 0.50 | 1 | 0.00 | process python -m x b |",
        "| 1.00 | 2 | 0.25 | imported torch |",
    ]


def test_repro_that_ran_a_stage_is_not_a_no_op() -> None:
    unchanged = "Stage 'a' didn't change, skipping\nStage 'b' didn't change, skipping\n"
    output = unchanged + "Data and pipelines are up to date."
    assert noop.count_unchanged_stages(output) == 2
    with pytest.raises(SystemExit, match="not a no-op"):
        noop.count_unchanged_stages("Running stage 'a':\n> true\n" + unchanged)


def test_disturbed_steps_change_the_undisturbed_share_but_not_the_ratio() -> None:
    validation = 3.0
    ray = [0.102] * 60 + [0.2] * 40 + [validation]
    torchrun = [0.1] * 90 + [0.2] * 10
    metrics = in_turns.compare(ray, torchrun)
    assert metrics["ratio"] == pytest.approx(0.1 / 0.102)
    assert metrics["undisturbed"] == pytest.approx(0.6)
    assert metrics["torchrun_undisturbed"] == pytest.approx(0.9)
    assert metrics["ratio_of_all"] == pytest.approx(0.11 / 0.1412)


def test_only_steps_that_lie_within_a_turn_count() -> None:
    times = [0.0, 1.0, 2.0, 3.5, 4.5, 9.0, 10.0]
    assert in_turns.step_durations(times, [(0.5, 3.6), (4.0, 9.5)]) == [1.0, 1.5, 4.5]


def test_accuracy_log_has_the_mean_over_workers_of_each_epoch(tmp_path: Path) -> None:
    log = AccuracyLog(tmp_path / "log.jsonl")
    for accuracies in ((0.5, 0.75), (1.0, 1.0)):
        log.after_report(None, [{"accuracy": a, "loss": 0.0} for a in accuracies], None)
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [0.625, 1.0]


def test_memory_monitor_sees_an_allocation_that_was_freed() -> None:
    script = "import time; x = bytearray(64 << 20); del x; time.sleep(2)"
    with subprocess.Popen([sys.executable, "-c", script], env=os.environ) as process:
        monitor = MemoryMonitor(process.pid)
        process.wait()
    assert 64 << 20 < monitor.stop()["driver"] < 128 << 20
