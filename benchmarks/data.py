"""Input data: Fashion-MNIST prepared by Kiln once for all contenders, and generated JPEGs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from components import provenance
from components.data.format.shards import read_split, write_split
from components.errors import UserError
from components.files import atomic_directory
from components.paths import ROOT, STATE

RAW = ROOT / "data" / "raw" / "fashion-mnist"
CACHE = STATE / "benchmarks"
"""Prepared splits and the logs of failed cases. They outlive an invocation."""

SMOKE_TRAIN_ROWS = 2000
SMOKE_EVAL_ROWS = 500


def load_params() -> dict[str, Any]:
    """Return the benchmarks' own `params.yaml`, with an absolute path to the raw images."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "benchmarks" / "params.yaml").read_text())
    params["preprocess"]["source"]["path"] = str(RAW)
    return params


def write_params(path: Path, params: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(params))


def prepare_splits() -> Path:
    """Return a folder with `train`, `val` and `test` as `pipelines.preprocess` writes them.

    The result is cached until the raw images, their parameters or the stage's code change.

    Raises:
        UserError: the raw images are missing, or cannot be prepared.
    """
    if not (RAW / "train-images-idx3-ubyte.gz").exists():
        raise UserError(
            f"{RAW} has no train-images-idx3-ubyte.gz: the benchmark needs Fashion-MNIST's four "
            "files there"
        )
    params = load_params()
    raw = {path.name: path.stat().st_size for path in sorted(RAW.glob("*.gz"))}
    facts = {"params": params["preprocess"], "raw": raw}
    folder = CACHE / provenance.fingerprint(preprocess_code(), facts)[:12]
    if (folder / "test" / "manifest.json").exists():
        return folder
    work = CACHE / "prepare"
    work.mkdir(parents=True, exist_ok=True)
    write_params(work / "params.yaml", params)
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.preprocess", "--out", str(folder)],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"preparing the data failed: {done.stderr.strip()}")
    return folder


def preprocess_code() -> list[str]:
    """Return the code that the stage `preprocess` depends on, as `dvc.yaml` lists it."""
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["preprocess"]
    return [dep for dep in stage["deps"] if dep.startswith(("components/", "pipelines/"))]


def truncate_splits(
    source: Path, folder: Path, train_rows: int | None, eval_rows: int | None = None
) -> Path:
    """Write the first rows of each split below `folder`.

    Args:
        train_rows: rows of `train`; None keeps all.
        eval_rows: rows of `val` and of `test`; None keeps all.
    """
    for split in ("train", "val", "test"):
        images, manifest = read_split(source / split)
        rows = (train_rows if split == "train" else eval_rows) or len(images)
        with atomic_directory(folder / split) as temporary:
            temporary.rmdir()  # `write_split` creates it
            write_split(
                temporary, split, images.slice(0, rows), manifest.classes, 32, manifest.channels
            )
    return folder


def write_jpegs(folder: Path, rows: int, side: int) -> Path:
    """Write `rows` different JPEGs of `side` x `side` pixels, in ten class directories.

    Each is noise of 6 x 6 pixels, enlarged. For a codec it is about as smooth as a photograph.
    """
    if folder.exists():
        return folder
    with atomic_directory(folder) as temporary:
        for start in range(0, rows, 1000):
            count = min(1000, rows - start)
            coarse = np.random.default_rng(start).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
            for n in range(count):
                path = temporary / f"class-{(start + n) % 10}" / f"{start + n:07d}.jpg"
                path.parent.mkdir(exist_ok=True)
                image = Image.fromarray(coarse[n])
                image.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return folder
