"""How soon something happens: the train stage's first step, and a `dvc repro` with nothing to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import checkout, data
from benchmarks.model import Case, Round, Settings, Target, Theme, figure, ratio
from components.paths import ROOT

FIRST, AGAIN = "kiln train stage, first of a checkout", "kiln train stage, later ones"
SMALL, LARGE, TRIVIAL = "kiln no-op dvc repro, 16 MB", "kiln no-op dvc repro, 512 MB", "one-stage no-op dvc repro"
_BIG = 512


def theme(settings: Settings) -> Theme:
    there = checkout.copy(settings.scratch / "start", data.params())
    data.cut(data.prepared(), there / "data" / "prepared", 2000 if settings.smoke else None, 500 if settings.smoke else None)
    stage = [sys.executable, "-m", "benchmarks.contenders.first_step", str(there), "{result}"]
    large = 32 if settings.smoke else _BIG
    sized = {SMALL: (settings.scratch / "noop-small", 16), LARGE: (settings.scratch / "noop-large", large)}
    repositories = {name: (checkout.copy(folder), size) for name, (folder, size) in sized.items()}
    repositories[TRIVIAL] = (_trivial(settings.scratch / "noop-trivial"), 0)
    return Theme(
        name="start",
        title="How soon something happens",
        metric="seconds",
        unit="seconds",
        cases=[
            Case(FIRST, stage, before=lambda _: checkout.without(there, ".kiln", "models", "mlflow.db", "mlartifacts")),
            Case(AGAIN, stage, before=lambda _: checkout.without(there, ".kiln/runs", ".kiln/ray", "models")),
            *(
                Case(name, [sys.executable, "-m", "benchmarks.contenders.noop", str(folder), str(size), "3", "{result}"])
                for name, (folder, size) in repositories.items()
            ),
        ],
        targets=[
            *(
                Target("8", f"seconds to the first step: {name}", _seconds(name), 8.0, at_least=False)
                for name in (FIRST, AGAIN)
            ),
            Target(
                "10", "no-op of the whole pipeline to that of one stage", ratio(SMALL, TRIVIAL, "seconds"), 1.5, at_least=False
            ),
            Target("10", "no-op with much data to one with little", ratio(LARGE, SMALL, "seconds"), 1.1, at_least=False),
        ],
        conditions=[
            "first step: `python -m pipelines.train` on 2 workers with Fashion-MNIST's prepared shards, from the start of the "
            "command to the end of the first `State.advance` of any rank, as `benchmarks/trace/sitecustomize.py` sees it; "
            "afterwards it is interrupted",
            f"{FIRST}: empty MLflow store, no remembered precision; {AGAIN}: both are there, no checkpoint",
            "imports: seconds inside outermost import statements, per process; on few cores they wait for one another",
            "no-op: `python -m dvc repro`, median of 3; everything is up to date, which is checked; outs are made-up bytes "
            f"recorded with `dvc commit` ({large} MB in the larger one)",
        ],
    )


def _seconds(name: str) -> Callable[[Round], float]:
    return lambda figures: figure(figures, name, "seconds")


def _trivial(folder: Path) -> Path:
    folder.mkdir()
    (folder / "dvc.yaml").write_text("stages:\n  only:\n    cmd: echo 1 > out.txt\n    deps: [in.txt]\n    outs: [out.txt]\n")
    (folder / "in.txt").write_text("1\n")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    shutil.copy2(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    return folder
