"""A folder of JPEGs: how fast it is prepared, and what memory it takes as it grows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import checkout, data
from benchmarks.model import Case, Round, Settings, Target, Theme, figure, ratio

STAGE, PLAIN = "kiln preprocess", "torchvision ImageFolder, 2 loader workers"
SIDE, TIMES = 32, (1, 4, 16)


def theme(settings: Settings) -> Theme:
    rows, unit = (600, 100) if settings.smoke else (60_000, 10_000)
    folder = data.jpegs(settings.scratch / "jpegs", rows, SIDE)
    there = _checkout(settings.scratch / "folders", folder)
    sized = {}
    for n in TIMES:
        images = data.jpegs(settings.scratch / f"jpegs-{n}", n * unit, SIDE)
        sized[n] = _checkout(settings.scratch / f"times-{n}", images, epochs=TIMES[-1] // n)
    return Theme(
        name="folders",
        title="A folder of JPEGs, prepared",
        metric="images_per_s",
        unit="images/s",
        cases=[
            Case(STAGE, _python("prepared", str(there), "{result}")),
            Case(PLAIN, _python("folder_pass", str(folder), "2", "{result}")),
            *(Case(_grown(n), _python("preparing", str(path), "{result}", "preprocess", "train")) for n, path in sized.items()),
        ],
        targets=[
            Target("6", f"seconds of the stage to a plain pass's, {rows:,} images", ratio(STAGE, PLAIN, "seconds"), 3.0, False),
            *(
                Target("6", f"peak memory of a {stage} {kind}, 16 x to 1 x", _growth(f"{stage} {kind} MiB"), 1.25, False)
                for stage in ("preprocess", "train")
                for kind in ("driver", "worker")
            ),
        ],
        conditions=[
            f"JPEGs of {SIDE} x {SIDE} pixels, quality 90, ten classes, a directory each; in the system's cache",
            f"{STAGE}: all checks, near-duplicates included, splits and report; from the end of the imports, the start of Ray "
            "included",
            f"memory: {', '.join(f'{n * unit:,}' for n in TIMES)} images; `train.images: disk`, cnn on 2 workers for "
            f"{', '.join(str(TIMES[-1] // n) for n in TIMES)} epochs, so that all do the same work; "
            "a process's peak resident memory, less what it maps of files and shares",
        ],
    )  # fmt: skip


def _grown(times: int) -> str:
    return f"kiln, {times} x the images"


def _growth(metric: str) -> Callable[[Round], float]:
    return lambda figures: figure(figures, _grown(16), metric) / figure(figures, _grown(1), metric)


def _checkout(folder: Path, images: Path, epochs: int = 1) -> Path:
    values: dict[str, Any] = data.params()
    values["preprocess"] = {"source": {"kind": "image_folder", "path": str(images)}, "val_fraction": 0.1, "test_fraction": 0.1}
    values["train"]["images"] = "disk"
    for recipe in values["train"]["models"].values():
        recipe |= {"epochs": epochs, "warmup_epochs": 0.5}
    return checkout.copy(folder, values)


def _python(module: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.contenders.{module}", *words]
