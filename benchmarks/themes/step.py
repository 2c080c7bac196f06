"""Kiln's step beside the limits of the machine, and the cost of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import data
from benchmarks.model import (
    Case,
    Metric,
    Round,
    Settings,
    Target,
    Theme,
    get_metric,
    ratio_to_best,
)
from benchmarks.processes import contender_command, torchrun_command

DATA = "kiln data path"
CONVOLUTIONS = "kiln resnet18 and its convolutions"
SAVING = "kiln checkpoint"
TRACKING = "kiln tracking"
TWO = "kiln 2 processes x 1 thread"
ONE_BY_TWO = "1 process x 2 threads"
ONE_BY_ONE = "1 process x 1 thread"
MICRO_BATCHES = {"": 1, " in halves": 2}
"""Micro-batches per step of the cases in one process, by the suffix of the case's name.

Two processes always compute a batch in halves. One process may do so or compute it at once, and
the faster of both is the one to compare with.
"""
PROBED = ("cnn", "resnet20", "resnet18")


def theme(settings: Settings) -> Theme:
    batch = "16" if settings.smoke else "256"
    return Theme(
        name="step",
        title="Kiln's step beside what the machine can do",
        metric="images_per_s",
        unit="images/s",
        cases=_cases(settings, batch),
        targets=_targets(),
        conditions=[
            f"{DATA}: cnn, flip and crop, global batch 256, 2 processes of one thread; blocks of 8 "
            "steps in turns with the same step on one batch made beforehand; what is drawn once "
            "per epoch is added in; the file is in memory's cache",
            f"{TWO} and its rivals: cnn, flip, global batch 256, the same step",
            f"{CONVOLUTIONS}: random images of 32 x 32 x 3, global batch {batch}, 2 processes of "
            "one thread, in turns",
            f"probe: Fashion-MNIST, {' and '.join(PROBED)}, 128 images per process, best of "
            "several passes",
            f"{SAVING}: ResNet-18 at 32 x 32 with momentum and best weights, written durably; an "
            "epoch is 54,000 images; 1 process of 2 threads; the time of the writing thread is "
            "counted in full",
            f"{TRACKING}: cnn, SQLite, 1 process of 2 threads, in turns; Kiln itself logs epochs",
        ],
    )


def _cases(settings: Settings, batch: str) -> list[Case]:
    smoke = settings.smoke
    splits = data.prepare_splits()
    if smoke:
        splits = data.truncate_splits(
            splits, settings.scratch / "step-data", data.SMOKE_TRAIN_ROWS, data.SMOKE_EVAL_ROWS
        )
    steps = "4" if smoke else "24"
    repeats = "1" if smoke else "4"
    tracked_steps = "4" if smoke else "90"
    tracked_blocks = "1" if smoke else "6"
    return [
        Case(DATA, torchrun_command("data_path", splits, "1" if smoke else "5", "{result}")),
        Case(TWO, torchrun_command("step_rate", splits, "1", "2", steps, "{result}")),
        *(
            Case(
                name + suffix,
                contender_command("step_rate", splits, threads, str(parts), steps, "{result}"),
            )
            for name, threads in ((ONE_BY_TWO, "2"), (ONE_BY_ONE, "1"))
            for suffix, parts in MICRO_BATCHES.items()
        ),
        Case(CONVOLUTIONS, torchrun_command("convolutions", batch, repeats, "{result}")),
        *_probe_cases(splits, repeats),
        Case(SAVING, contender_command("checkpoint_cost", batch, repeats, "{result}")),
        Case(
            TRACKING,
            contender_command("tracking_cost", splits, tracked_steps, tracked_blocks, "{result}"),
        ),
    ]


def _probe_cases(splits: Path, repeats: str) -> list[Case]:
    """Return one case per network. ResNet-18 is measured once only, because it takes long."""
    return [
        Case(
            _probe_name(name),
            torchrun_command(
                "precision_probe",
                splits,
                name,
                "1" if name == "resnet18" else repeats,
                "{result}",
            ),
        )
        for name in PROBED
    ]


def _targets() -> list[Target]:
    in_one_process = {
        name: [name + suffix for suffix in MICRO_BATCHES] for name in (ONE_BY_TWO, ONE_BY_ONE)
    }
    return [
        Target(
            "4",
            "resident: loading and augmentation to one batch made beforehand",
            _quotient(DATA, "loading_images_per_s", "made_images_per_s"),
            0.97,
        ),
        Target(
            "4",
            "streaming from a file of the disk: the same",
            _quotient(DATA, "streaming_images_per_s", "made_images_per_s"),
            0.9,
        ),
        Target(
            "5",
            "two processes of one thread to one of two",
            ratio_to_best(TWO, in_one_process[ONE_BY_TWO], "images_per_s"),
            0.95,
        ),
        Target(
            "5",
            "two processes of one thread to one of one",
            ratio_to_best(TWO, in_one_process[ONE_BY_ONE], "images_per_s"),
            1.8,
        ),
        Target(
            "6",
            "ResNet-18 at 32 x 32: bare convolutions' time to the step's",
            _quotient(CONVOLUTIONS, "convolutions_s", "step_s"),
            0.7,
        ),
        *_probe_targets(),
        *_cost_targets(),
    ]


def _cost_targets() -> list[Target]:
    return [
        Target(
            "9",
            "share of the step loop that tracking costs, with figures of every step",
            lambda results: get_metric(results, TRACKING, "cost"),
            0.01,
            at_least=False,
        ),
        Target(
            "11",
            "share of an epoch that a checkpoint costs",
            lambda results: get_metric(results, SAVING, "share"),
            0.02,
            at_least=False,
        ),
    ]


def _probe_targets() -> list[Target]:
    return [
        Target(
            "7",
            "the best of four combinations to the one picked, worst network",
            _over_networks(min, "best_to_picked"),
            0.98,
        ),
        Target(
            "7",
            "seconds of the probe, longest",
            _over_networks(max, "probe_s"),
            2.0,
            at_least=False,
        ),
        Target(
            "7",
            "cosine of the picked combination's gradient to fp32's, worst",
            _over_networks(min, "cosine"),
            0.97,
        ),
    ]


def _quotient(case: str, numerator: str, denominator: str) -> Metric:
    """Return the ratio of two metrics of the same case."""
    return lambda results: (
        get_metric(results, case, numerator) / get_metric(results, case, denominator)
    )


def _over_networks(select: Callable[[Iterable[float]], float], metric: str) -> Metric:
    """Return the smallest or largest value of a metric among the probed networks."""

    def value(results: Round) -> float:
        return select(get_metric(results, _probe_name(name), metric) for name in PROBED)

    return value


def _probe_name(architecture: str) -> str:
    return f"kiln probe, {architecture}"
