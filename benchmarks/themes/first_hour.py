"""Wall time of `make repro` in a fresh checkout, with the parameters that the repository has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from benchmarks import checkout, data
from benchmarks.model import (
    Case,
    Round,
    Settings,
    Target,
    Theme,
    get_metric,
    metric_values,
)
from benchmarks.processes import shell_command

REPRO = "make repro, installed"
_SECONDS = 360.0
_MIN_TOP1 = 0.92
# Prints the accuracy of the model that is worst on the test split.
_SCORE = (
    "import json, pathlib, sys; "
    "metrics = json.loads(pathlib.Path(sys.argv[1]).read_text()); "
    "print(min(model['top1'] for model in metrics.values()))"
)


def theme(settings: Settings) -> Theme:
    folder = checkout.copy(settings.scratch / "first_hour")
    if settings.smoke:
        _shrink(folder / "params.yaml")
    commands = (["-m", "pipelines.preflight"], ["-m", "dvc", "repro"], ["-m", "pipelines.status"])
    repro = shell_command(*([sys.executable, *command] for command in commands))
    return Theme(
        name="first_hour",
        title="The first `make repro`",
        metric="wall_s",
        unit="seconds",
        cases=[
            Case(
                REPRO,
                # As for a user: the number of threads follows the machine.
                ["env", "-u", "OMP_NUM_THREADS", *repro],
                cwd=folder,
                env={"PYTHONPATH": str(folder)},
                before=_reset(folder),
                timeout_s=3600,
                score_command=[
                    sys.executable,
                    "-c",
                    _SCORE,
                    str(folder / "reports" / "metrics.json"),
                ],
            )
        ],
        targets=[
            Target(
                "first hour",
                "seconds of `make repro`, after installing",
                lambda results: get_metric(results, REPRO, "wall_s"),
                _SECONDS,
                at_least=False,
                condition=_all_accurate,
            )
        ],
        conditions=[
            "what `make repro` runs (preflight, `dvc repro`, status) in a copy of the checkout "
            "without outs, DVC cache, MLflow store or remembered precision; `params.yaml` of the "
            "repository",
            f"test_top1: the accuracy of the worse of the models, at least {_MIN_TOP1:.0%} wanted",
        ],
    )


def _reset(folder: Path) -> Callable[[int], None]:
    def before(_: int) -> None:
        checkout.reset(folder)
        checkout.remove(folder, "data/augmented", "data/params.yaml", "reports", "dvc.lock")
        checkout.remove(folder, ".dvc/cache", ".dvc/tmp")

    return before


def _shrink(path: Path) -> None:
    params = yaml.safe_load(path.read_text())
    for recipe in params["train"]["models"].values():
        recipe |= {"epochs": 1, "width": 4, "warmup_epochs": 0.1}
    data.write_params(path, params)


def _all_accurate(rounds: Sequence[Round]) -> tuple[bool, str]:
    worst = min(metric_values(rounds, REPRO, "test_top1"))
    return worst >= _MIN_TOP1, f"the worst model of all rounds has {worst:.2%}"
