"""Trainings that are interrupted and resumed."""

from __future__ import annotations

import copy
from typing import Any

from benchmarks.gpu_run.right.differences import MAX_NAMES, find_differences
from benchmarks.gpu_run.right.recorder import Recorder
from benchmarks.gpu_run.right.repeats import find_unrepeatable
from benchmarks.gpu_run.right.setup import Setup
from benchmarks.gpu_run.right.trials import ADAMW, MIXING, MUON, RMSPROP, Trial
from components.training import loop


def check_resume(setup: Setup) -> None:
    """Stop in the second epoch and resume from the checkpoint."""
    cases: list[tuple[str, str, str, dict[str, Any]]] = [
        ("average, clipping, mixing", "resnet20", "bf16", MIXING),
        ("Muon", "cnn", "bf16", MUON),
        ("gradient scaler", "resnet20", "fp16", {}),
        ("plain", "resnet18", "bf16", {}),
        ("AdamW", "cnn", "bf16", ADAMW),
        ("RMSprop", "cnn", "bf16", RMSPROP),
    ]
    for case, name, precision, recipe in cases[:3] if setup.smoke else cases:
        with setup.results.attempt(f"resume {case}"):
            trial = setup.trial(name, recipe=recipe)
            compare_resumed(setup, "resume", trial, precision, case=case, network=name)


def compare_resumed(
    setup: Setup, check: str, trial: Trial, precision: str, **values: Any
) -> loop.TrainingOutcome:
    """Compare an interrupted training with one that never stopped, which is returned."""
    expected = trial.train(setup.device, precision)
    stop_after = trial.steps + trial.steps // 2 + 1
    recorder = Recorder(stop_after=stop_after)
    stopped = trial.train(setup.device, precision, callback=recorder)
    step = stopped.stopped_at_step
    assert step is not None
    state = recorder.checkpoints[step]
    # On a CPU the optimiser adopts the tensors of the state and changes them.
    resumed = trial.train(setup.device, precision, resume=copy.deepcopy(state))
    values |= {"precision": precision, "stopped_at_step": step, "stop_requested_after": stop_after}
    if not setup.add_equality(check, trial, (expected, resumed), **values):
        explained = _explain_resumed(setup, trial, precision, state)
        setup.results.add(f"{check}: explained", **values, **explained)
    return expected


def _explain_resumed(
    setup: Setup, trial: Trial, precision: str, state: dict[str, Any]
) -> dict[str, Any]:
    """Compare the checkpoint of the stop, and those of the steps after it, with the whole training.

    The stop itself may be part of its checkpoint (`at_stop`).
    """
    whole = Recorder(every_step=True)
    trial.train(setup.device, precision, callback=whole)
    rest = Recorder(every_step=True)
    trial.train(setup.device, precision, callback=rest, resume=copy.deepcopy(state))
    explained: dict[str, Any] = {
        "at_stop": find_differences(whole.checkpoints[state["step"]], state)[:MAX_NAMES],
        "first_step": None,
        "one_pass": find_unrepeatable(trial, setup.device, precision),
    }
    for step in sorted(rest.checkpoints):
        names = find_differences(whole.checkpoints[step], rest.checkpoints[step])
        if names:
            return explained | {"first_step": step, "differ": names[:MAX_NAMES]}
    return explained
