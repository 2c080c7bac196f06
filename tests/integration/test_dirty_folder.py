"""The whole pipeline on a folder of phone photographs with hostile files among them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from tests.integration.conftest import make_clone
from tests.unit.data.hostile import add_hostile_files


def write_photograph(path: Path, label: int, seed: int) -> None:
    """Write a JPEG of 2016 x 1512 pixels, every third with an EXIF orientation.

    Label 0 is dark at the top, label 1 dark on the left.
    """
    random = np.random.default_rng(seed)
    coarse = random.integers(60, 256, (12, 16, 3), dtype=np.uint8)
    coarse[:5] //= 1 + 2 * (label == 0)
    coarse[:, :6] //= 1 + 2 * (label == 1)
    image = Image.fromarray(coarse).resize((2016, 1512), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    if seed % 3 == 0:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[ExifTags.Base.Orientation] = 6
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=85, exif=exif)


def test_dirty_folder_is_prepared_trained_and_evaluated(tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "clone")
    raw = clone.path / "data" / "raw" / "photos"
    for n in range(245):
        write_photograph(raw / ("cat", "dog")[n % 2] / f"IMG_{n:04d}.JPG", n % 2, n)
    expected = add_hostile_files(raw, tmp_path / "outside.jpg")
    for key, value in {
        "source": {"kind": "image_folder", "path": "data/raw/photos"},
        "image_size": 32,
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "max_quarantined_fraction": 0.2,
        "limits": {"max_file_mb": 1},
    }.items():
        clone.change(f"preprocess.{key}", value)
    recipe = clone.params()["train"]["models"]["cnn"] | {"epochs": 8}
    clone.change("train.models", {"cnn": recipe})
    clone.change("train.global_batch_size", 16)
    preflight = clone.stage("preflight")
    assert preflight.returncode == 2
    pattern = r"^  data/raw/photos/(cat/.*) \((it .*|the name .*)\)$"
    unhashable = dict(re.findall(pattern, preflight.stdout, re.M))
    assert set(unhashable) == {
        path for path, reason in expected.items() if reason == "not a file"
    } | {
        "cat/link nowhere.jpg",
        "cat/link round.jpg",
        "cat/link up.jpg",
        "cat/bytes \\udcff\\udcfe.jpg",
    }
    with (clone.path / ".dvcignore").open("a") as file:
        file.write(
            "data/raw/photos/cat/link *.jpg\n"
            "data/raw/photos/cat/pipe.jpg\n"
            "data/raw/photos/cat/socket.jpg\n"
        )
    next((raw / "cat").glob("bytes*")).unlink()
    del expected["cat/bytes \\udcff\\udcfe.jpg"]
    assert clone.stage("preflight").returncode == 0
    assert clone.repro() == [
        "params",
        "preprocess",
        "augment",
        "train@cnn",
        "register@cnn",
        "evaluate",
    ]
    with (clone.path / "data/prepared/quarantine.csv").open(encoding="utf-8", newline="") as file:
        assert {row["path"]: row["reason"] for row in csv.DictReader(file)} == expected
    verdict = json.loads((clone.path / "reports/verdict.json").read_text())["models"]["cnn"]
    assert verdict["metrics"]["top1"] > 0.8
    assert clone.repro() == []
    # One more photograph reruns the stages.
    write_photograph(raw / "cat" / "IMG_9999.JPG", 0, 9999)
    assert clone.repro("augment") == ["preprocess", "augment"]
