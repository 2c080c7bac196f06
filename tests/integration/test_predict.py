"""From `dvc repro` on photographs to `predict` on the same files: the same probabilities."""

from __future__ import annotations

import csv
import os
import shutil
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import ExifTags, Image

from components.data.preparation.survey import Imap, local_imap
from components.data.sources.unlabelled import open_unlabelled
from components.models.architectures import build
from components.params import Limits
from components.ray_session.parallel import ray_imap
from components.records.splits import Channels, Preparation
from components.records.training import Network
from components.serving.predictor import Predictor
from tests.integration.conftest import ROOT, Clone, make_clone
from tests.unit.data.hostile import encode, make_picture

pytestmark = pytest.mark.slow

CLASSES = ("cat", "dog", "owl")


def write_photograph(folder: Path, label: int, seed: int) -> None:
    """Write a picture of its own size, with a bright band whose position depends on the label.

    By the seed it is a JPEG, a JPEG with an EXIF orientation, a PNG or a PNG with transparency.
    """
    random = np.random.default_rng(seed)
    height = int(random.integers(20, 60))
    width = int(random.integers(20, 60))
    pixels = random.integers(0, 120, (height, width, 3), dtype=np.uint8)
    pixels[label * height // 3 : (label + 1) * height // 3] += 120
    name = f"IMG_{seed:03d}"
    folder.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    image = Image.fromarray(pixels)
    match seed % 4:
        case 0:
            image.save(folder / f"{name}.jpg", quality=90)
        case 1:
            exif[ExifTags.Base.Orientation] = 6
            turned = image.transpose(Image.Transpose.ROTATE_90)
            turned.save(folder / f"{name}.JPG", quality=90, exif=exif)
        case 2:
            image.save(folder / f"{name}.png")
        case 3:
            image.putalpha(Image.fromarray(random.integers(100, 256, (height, width), np.uint8)))
            image.save(folder / f"{name}.png")


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with a champion that was trained on photographs."""
    clone = make_clone(tmp_path_factory.mktemp("predict") / "clone")
    for number in range(180):
        label = number % 3
        folder = clone.path / "data" / "raw" / "photos" / CLASSES[label]
        write_photograph(folder, label, number)
    for key, value in {
        "preprocess.source": {"kind": "image_folder", "path": "data/raw/photos"},
        "preprocess.image_size": [16, 24],
        "preprocess.resize": "pad",
        "preprocess.background": 7,
        "preprocess.val_fraction": 0.2,
        "preprocess.test_fraction": 0.2,
        "train.models": {"cnn": clone.params()["train"]["models"]["cnn"]},
        "train.global_batch_size": 20,
        "evaluate.batch_size": 7,
        "evaluate.gates": {"min_top1": None, "min_class_recall": None, "max_ece": None},
    }.items():
        clone.change(key, value)
    clone.repro()
    promoted = clone.stage("promote", "--version", "1", "--reason", "the first")
    assert promoted.returncode == 0, promoted.stdout
    return clone


def test_predictions_of_raw_files_are_those_of_evaluate_to_the_bit(champion: Clone) -> None:
    stored = pq.read_table(champion.path / "reports" / "predictions" / "cnn.parquet")
    ids = stored["id"].to_pylist()
    assert {Path(name).suffix for name in ids} == {".jpg", ".JPG", ".png"}
    photos = champion.path / "new"
    for name in ids:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(champion.path / "data" / "raw" / "photos" / name, photos / name)
    # Files that cannot be read do not move the others into other batches.
    (photos / "cat" / "IMG_0000.jpg").write_bytes(b"no image")
    (photos / "notes.txt").write_text("remember the milk")
    words = ("--model", "fashion-mnist@champion", "--top-k", "3")
    done = champion.stage("predict", "new", *words, "--out", "labels.csv")
    assert done.returncode == 0, done.stdout
    last = done.stdout.splitlines()[-1]
    assert f"{len(ids)} labelled, 0 below the threshold, 1 not usable" in last
    with (champion.path / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert rows.pop("cat/IMG_0000.jpg")["error"].startswith("format: not one of")
    assert list(rows) == ids
    for name, prediction, expected in zip(
        ids, stored["prediction"].to_pylist(), stored["probability"].to_pylist(), strict=True
    ):
        row = rows[name]
        assert row["label"] == row["label_1"] == CLASSES[prediction]
        found = {row[f"label_{n}"]: np.float32(row[f"probability_{n}"]) for n in (1, 2, 3)}
        assert [found[label] for label in CLASSES] == [np.float32(value) for value in expected]

    with zipfile.ZipFile(champion.path / "new.zip", "w") as archive:
        for name in ids:
            archive.write(photos / name, name)
    done = champion.stage("predict", "new.zip", *words[:2], "--out", "labels.parquet")
    assert done.returncode == 0, done.stdout
    table = pq.read_table(champion.path / "labels.parquet")
    assert table.column_names == ["path", "label", "probability", "error"]
    assert table["path"].to_pylist() == ids
    assert table["probability"].to_pylist() == [max(p) for p in stored["probability"].to_pylist()]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("fashion-mnist", "is neither name@alias nor name/version"),
        ("fashion-mnist@challenger", "no such alias; there are champion"),
        ("unknown@champion", "there is no registered model 'unknown'"),
        ("fashion-mnist/9", "is not in this registry; versions there: 1"),
    ],
)
def test_missing_versions_are_refused(champion: Clone, reference: str, message: str) -> None:
    photos = champion.path / "data" / "raw" / "photos"
    done = champion.stage("predict", str(photos), "--model", reference, "--out", "x.csv")
    assert done.returncode == 2
    assert message in done.stdout
    assert not (champion.path / "x.csv").exists()


def test_ray_gives_the_same_bits_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray's worker processes import the code from here.
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    network = Network(
        architecture="cnn",
        width=8,
        shape=(16, 16, 3),
        classes=["a", "b"],
        channels=Channels(mean=[99.0] * 3, std=[50.0] * 3),
        preparation=Preparation(rules=1, resize="crop", background=255),
    )
    torch.manual_seed(0)
    predictor = Predictor.create("model", build(network).eval(), network, batch_size=100)
    for number in range(1300):  # two chunks
        content = encode(make_picture(number, 20)) if number % 50 else b"no image"
        (tmp_path / f"{number:04d}.png").write_bytes(content)
    source = open_unlabelled(str(tmp_path), Limits(), tmp_path)

    def predict(imap: Imap) -> list[tuple[str, bytes]]:
        return [
            (image.id, image.result.tobytes() if isinstance(image.result, np.ndarray) else b"")
            for batch in predictor.predict_source(source, Limits(), imap)
            for image in batch
        ]

    expected = predict(local_imap)
    assert sum(not result for _, result in expected) == 26
    assert predict(partial(ray_imap, num_tasks=2)) == expected
