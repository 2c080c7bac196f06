"""A folder of JPEGs: time to prepare it, and memory as the number of images grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import checkout, data
from benchmarks.model import Case, Metric, Settings, Target, Theme, get_metric, ratio_to_best
from benchmarks.processes import contender_command

STAGE = "kiln preprocess"
PLAIN = "torchvision ImageFolder, 2 loader workers"
SIDE = 32
FACTORS = (1, 4, 16)
"""Sizes of the image sets whose memory is compared, as multiples of the smallest."""


def theme(settings: Settings) -> Theme:
    rows = 600 if settings.smoke else 60_000
    unit = 100 if settings.smoke else 10_000
    folder = data.write_jpegs(settings.scratch / "jpegs", rows, SIDE)
    stage_checkout = _copy_checkout(settings.scratch / "folders", folder)
    cases = [
        Case(STAGE, contender_command("preprocess_time", stage_checkout, "{result}")),
        Case(PLAIN, contender_command("folder_pass", folder, "2", "{result}")),
    ]
    for factor in FACTORS:
        images = data.write_jpegs(settings.scratch / f"jpegs-{factor}", factor * unit, SIDE)
        # Fewer epochs over more images, so that all trainings do the same work.
        epochs = FACTORS[-1] // factor
        sized = _copy_checkout(settings.scratch / f"times-{factor}", images, epochs)
        command = contender_command("stage_memory", sized, "{result}", "preprocess", "train")
        cases.append(Case(_sized_name(factor), command))
    sizes = ", ".join(f"{factor * unit:,}" for factor in FACTORS)
    epochs_of_sizes = ", ".join(str(FACTORS[-1] // factor) for factor in FACTORS)
    return Theme(
        name="folders",
        title="A folder of JPEGs, prepared",
        metric="images_per_s",
        unit="images/s",
        cases=cases,
        targets=_targets(rows),
        conditions=[
            f"JPEGs of {SIDE} x {SIDE} pixels, quality 90, ten classes, a directory each; in the "
            "system's cache",
            f"{STAGE}: all checks, near-duplicates included, splits and report; from the end of "
            "the imports, the start of Ray included",
            f"memory: {sizes} images; `train.images: disk`, cnn on 2 workers for {epochs_of_sizes} "
            "epochs, so that all do the same work; a process's peak resident memory, less what it "
            "maps of files and shares",
        ],
    )


def _targets(rows: int) -> list[Target]:
    seconds = Target(
        "6",
        f"seconds of the stage to a plain pass's, {rows:,} images",
        ratio_to_best(STAGE, PLAIN, "seconds"),
        3.0,
        at_least=False,
    )
    memory = [
        Target(
            "6",
            f"peak memory of a {stage} {kind}, 16 x to 1 x",
            _growth(f"{stage} {kind} MiB"),
            1.25,
            at_least=False,
        )
        for stage in ("preprocess", "train")
        for kind in ("driver", "worker")
    ]
    return [seconds, *memory]


def _sized_name(factor: int) -> str:
    return f"kiln, {factor} x the images"


def _growth(metric: str) -> Metric:
    """Return the ratio of a metric between the largest and the smallest image set."""
    largest = _sized_name(16)
    smallest = _sized_name(1)
    return lambda results: (
        get_metric(results, largest, metric) / get_metric(results, smallest, metric)
    )


def _copy_checkout(folder: Path, images: Path, epochs: int = 1) -> Path:
    """Copy the checkout with parameters for a folder of images that are read from disk."""
    params: dict[str, Any] = data.load_params()
    params["preprocess"] = {
        "source": {"kind": "image_folder", "path": str(images)},
        "val_fraction": 0.1,
        "test_fraction": 0.1,
    }
    params["train"]["images"] = "disk"
    for recipe in params["train"]["models"].values():
        recipe |= {"epochs": epochs, "warmup_epochs": 0.5}
    return checkout.copy(folder, params)
