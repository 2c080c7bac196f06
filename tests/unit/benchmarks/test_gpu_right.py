"""The checks of training on a GPU, rehearsed on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.gpu_run.results import Results, read_results
from benchmarks.gpu_run.right.differences import describe_differences, find_differences
from benchmarks.gpu_run.right.repeats import find_unrepeatable
from benchmarks.gpu_run.right.setup import Setup
from benchmarks.gpu_run.right.trials import CPU


def test_differences_of_states_are_named_by_path() -> None:
    state = {"model": {"w": torch.zeros(2)}, "groups": [{"lr": 0.1}], "step": 3}
    other = {"model": {"w": torch.tensor([0.0, 0.5])}, "groups": [{"lr": 0.2}], "step": 3}
    assert find_differences(state, state) == []
    assert find_differences(state, other) == [".groups.0.lr", ".model.w"]
    assert describe_differences(state["model"], other["model"]) == {
        "max_difference": 0.5,
        "differ": ["w"],
    }


def test_unequal_trainings_are_recorded_and_explained(tmp_path: Path) -> None:
    setup = Setup(Results(tmp_path, "right"), CPU, smoke=True)
    trial = setup.trial("cnn")
    first = trial.train(CPU, "fp32")
    second = setup.trial("cnn", recipe={"learning_rate": 0.06}).train(CPU, "fp32")
    assert not setup.add_equality("unequal", trial, (first, second))
    (record,) = read_results(tmp_path, "right")
    assert record["ok"] is False
    assert record["max_difference"] > 0
    assert find_unrepeatable(trial, CPU, "bf16") == []
