"""Start-up times: the train stage's first step, and a `dvc repro` with nothing to do."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks import checkout, data
from benchmarks.model import Case, Metric, Settings, Target, Theme, get_metric, ratio_to_best
from benchmarks.processes import contender_command
from components.dvc_cli import dvc
from components.git_cli import git
from components.paths import ROOT

FIRST = "kiln train stage, first of a checkout"
LATER = "kiln train stage, later ones"
SMALL = "kiln no-op dvc repro, 16 MB"
LARGE = "kiln no-op dvc repro, 512 MB"
TRIVIAL = "one-stage no-op dvc repro"


def theme(settings: Settings) -> Theme:
    large_mb = 32 if settings.smoke else 512
    scratch = settings.scratch
    return Theme(
        name="start",
        title="How soon something happens",
        metric="seconds",
        unit="seconds",
        cases=[
            *_first_step_cases(scratch / "start", settings.smoke),
            _noop_case(SMALL, checkout.copy(scratch / "noop-small"), 16),
            _noop_case(LARGE, checkout.copy(scratch / "noop-large"), large_mb),
            _noop_case(TRIVIAL, _write_one_stage_repository(scratch / "noop-trivial"), 0),
        ],
        targets=_targets(),
        conditions=[
            "first step: `python -m pipelines.train` on 2 workers with Fashion-MNIST's prepared "
            "shards, from the start of the command to the end of the first optimiser step of any "
            "rank, as `benchmarks/trace/sitecustomize.py` sees it; afterwards it is interrupted",
            f"{FIRST}: empty MLflow store, no remembered precision; {LATER}: both are there, no "
            "checkpoint",
            "imports: seconds inside outermost import statements, per process; on few cores they "
            "wait for one another",
            "no-op: `python -m dvc repro`, median of 3; everything is up to date, which is "
            "checked; outs are made-up bytes recorded with `dvc commit` "
            f"({large_mb} MB in the larger one)",
        ],
    )


def _first_step_cases(folder: Path, smoke: bool) -> list[Case]:
    checkout.copy(folder, data.load_params())
    checkout.write_splits(folder, smoke)
    command = contender_command("first_step", folder, "{result}")

    def remove_all(_: int) -> None:
        checkout.remove(folder, ".kiln", "models", "mlflow.db", "mlartifacts")

    def remove_checkpoints(_: int) -> None:
        checkout.remove(folder, ".kiln/runs", ".kiln/ray", "models")

    return [
        Case(FIRST, command, before=remove_all),
        Case(LATER, command, before=remove_checkpoints),
    ]


def _noop_case(name: str, repository: Path, megabytes: int) -> Case:
    repeats = 3
    return Case(
        name,
        contender_command("noop", repository, str(megabytes), str(repeats), "{result}"),
    )


def _write_one_stage_repository(folder: Path) -> Path:
    """Create a DVC repository with one stage and the same DVC settings as this one."""
    folder.mkdir()
    (folder / "dvc.yaml").write_text(
        "stages:\n  only:\n    cmd: echo 1 > out.txt\n    deps: [in.txt]\n    outs: [out.txt]\n"
    )
    (folder / "in.txt").write_text("1\n")
    git(folder, "init", "-q")
    dvc(folder, "init", "-q")
    shutil.copy2(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    return folder


def _targets() -> list[Target]:
    return [
        *(
            Target("8", f"seconds to the first step: {name}", _seconds(name), 8.0, at_least=False)
            for name in (FIRST, LATER)
        ),
        Target(
            "10",
            "no-op of the whole pipeline to that of one stage",
            ratio_to_best(SMALL, TRIVIAL, "seconds"),
            1.5,
            at_least=False,
        ),
        Target(
            "10",
            "no-op with much data to one with little",
            ratio_to_best(LARGE, SMALL, "seconds"),
            1.1,
            at_least=False,
        ),
    ]


def _seconds(case: str) -> Metric:
    return lambda results: get_metric(results, case, "seconds")
