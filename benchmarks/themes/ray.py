"""What Ray costs the training loop: the same loop under Ray Train and under torchrun, in turns of seconds."""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.model import Case, Settings, Target, Theme, figure
from benchmarks.themes.throughput import build

PAIR = "kiln on ray and under torchrun"


def theme(settings: Settings) -> Theme:
    built = build(settings, settings.rows, epochs=1)  # of which there are as many as the turns take
    file, blocks = settings.scratch / "work.json", "4" if settings.smoke else "40"
    return replace(
        built,
        name=built.name.replace("throughput", "ray"),
        title=f"The loop under Ray Train and under torchrun, {settings.network}",
        cases=[Case(PAIR, [sys.executable, "-m", "benchmarks.contenders.in_turns", str(file), blocks, "{result}", "{round}"])],
        targets=[
            Target("1", "the loop under Ray Train to the same loop under torchrun", lambda f: figure(f, PAIR, "ratio"), 0.98)
        ],
        conditions=[
            built.conditions[0].replace(", 1 epochs", ""),
            built.conditions[1],
            "both train, but all processes of one of them are stopped at any moment, in turns of 1.5 s; validation and "
            "start-up are left out",
            "steps that take less than 1.25 times as long as the quickest fifth of both; `undisturbed` is their share of all, "
            "`ratio_of_all` that of all steps",
            "under Ray as `pipelines.train` runs it (precision by its probe, checkpoints, events)",
        ],
    )
