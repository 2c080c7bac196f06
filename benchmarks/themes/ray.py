"""What Ray costs the training loop: the same loop under Ray Train and under torchrun, in pairs."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.model import Settings, Target, Theme, ratio
from benchmarks.themes.throughput import LOOP, RAY, build


def theme(settings: Settings) -> Theme:
    """Two contenders alone, so that the runs of a pair follow one another: the machine drifts by more than they differ."""
    built = build(settings, settings.rows, settings.epochs or 3)
    return replace(
        built,
        name=built.name.replace("throughput", "ray"),
        title=f"The loop under Ray Train and under torchrun, {settings.network}",
        cases=[case for case in built.cases if case.name in (RAY, LOOP)],
        targets=[
            Target("1", "the loop under Ray Train to the same loop under torchrun", ratio(RAY, LOOP, "images_per_s"), 0.98)
        ],
        conditions=[text for text in built.conditions if not text.startswith("peers")],
    )
