"""Fashion-MNIST as Kiln prepares it, once for all contenders, and cut to size."""

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
from components.paths import ROOT

RAW = ROOT / "data" / "raw" / "fashion-mnist"
KEPT = ROOT / ".kiln" / "benchmarks"


def params() -> dict[str, Any]:
    """The benchmark's own parameters, with an absolute path to the raw images."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "benchmarks" / "params.yaml").read_text())
    values["preprocess"]["source"]["path"] = str(RAW)
    return values


def prepared() -> Path:
    """A folder with `train`, `val` and `test` as `pipelines.preprocess` makes them; made once, until its code changes.

    Raises:
        UserError: the raw images are not there, or cannot be prepared.
    """
    raw = {path.name: path.stat().st_size for path in sorted(RAW.glob("*.gz"))}
    folder = KEPT / provenance.fingerprint("pipelines.preprocess", {"params": params()["preprocess"], "raw": raw})[:12]
    if (folder / "test" / "manifest.json").exists():
        return folder
    if not (RAW / "train-images-idx3-ubyte.gz").exists():
        raise UserError(f"{RAW} has no train-images-idx3-ubyte.gz: the benchmark needs Fashion-MNIST's four files there")
    work = KEPT / "prepare"
    work.mkdir(parents=True, exist_ok=True)
    write_params(work / "params.yaml", params())
    command = [sys.executable, "-m", "pipelines.preprocess", "--out", str(folder)]
    done = subprocess.run(command, cwd=work, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"preparing the data failed: {done.stderr.strip()}")
    return folder


def cut(source: Path, folder: Path, rows: int | None, other: int | None = None) -> Path:
    """The first `rows` of the training split and `other` of the rest, as splits below `folder`; None keeps all."""
    for split in ("train", "val", "test"):
        images, manifest = read_split(source / split)
        wanted = rows if split == "train" else other
        with atomic_directory(folder / split) as fresh:
            fresh.rmdir()
            write_split(fresh, split, images.slice(0, wanted or len(images)), manifest.classes, 32, manifest.channels)
    return folder


def write_params(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values))


def jpegs(folder: Path, rows: int, side: int) -> Path:
    """`rows` JPEGs in ten directories, no two alike, smooth enough to look like photographs to a codec."""
    if folder.exists():
        return folder
    with atomic_directory(folder) as fresh:
        for start in range(0, rows, 1000):
            count = min(1000, rows - start)
            coarse = np.random.default_rng(start).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
            for n in range(count):
                path = fresh / f"class-{(start + n) % 10}" / f"{start + n:07d}.jpg"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(coarse[n]).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return folder
