"""Cost of Ray for the training loop: the same loop under Ray Train and under torchrun, in turns."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.model import Case, Settings, Target, Theme, get_metric
from benchmarks.processes import contender_command
from benchmarks.themes.throughput import build_theme, workload_file

PAIR = "kiln on ray and under torchrun"


def theme(settings: Settings) -> Theme:
    # The number of epochs does not matter: the contender trains until it has had all its turns.
    throughput = build_theme(settings, settings.rows, epochs=1)
    turns = "4" if settings.smoke else "40"
    command = contender_command("in_turns", workload_file(settings), turns, "{result}", "{round}")
    return replace(
        throughput,
        name=throughput.name.replace("throughput", "ray"),
        title=f"The loop under Ray Train and under torchrun, {settings.network}",
        cases=[Case(PAIR, command)],
        targets=[
            Target(
                "1",
                "the loop under Ray Train to the same loop under torchrun",
                lambda results: get_metric(results, PAIR, "ratio"),
                0.98,
            )
        ],
        conditions=[
            throughput.conditions[0].replace(", 1 epochs", ""),
            throughput.conditions[1],
            "both train, but all processes of one of them are stopped at any moment, in turns of "
            "1.5 s; validation and start-up are left out",
            "steps that take less than 1.25 times as long as the quickest fifth of both; "
            "`undisturbed` is their share of all, `ratio_of_all` that of all steps",
            "under Ray as `pipelines.train` runs it (precision by its probe, checkpoints, events)",
        ],
    )
