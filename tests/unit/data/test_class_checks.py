"""Refusals before work: sources that cannot give three splits of at least two classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from components.errors import UserError
from pipelines import preprocess
from tests.unit.data.hostile import make_class_folder
from tests.unit.data.prepared import Prepare


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if an image is decoded."""

    def survey(*_: object) -> None:
        pytest.fail("work has started")

    monkeypatch.setattr(preprocess, "survey", survey)


def test_one_class_is_refused(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw", per_class=30, classes=("cat",))
    with pytest.raises(UserError, match=r"raw: all 30 images are of one class, 'cat'.*at least"):
        prepare("raw")


def test_one_class_in_train_is_refused(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw", per_class=9)
    rows = [
        (f"{label}/{n:03d}.jpg", label, "test" if label == "dog" or n == 0 else "train")
        for label in ("cat", "dog")
        for n in range(9)
    ]
    table = pd.DataFrame(rows, columns=["path", "label", "split"])
    table.to_csv(tmp_path / "raw/labels.csv", index=False)
    with pytest.raises(UserError, match=r"all training images are of one class, 'cat'"):
        prepare("raw", kind="csv", options={"split_column": "split"})


def test_one_label_in_a_table_is_refused_with_the_column_to_look_at(
    prepare: Prepare, tmp_path: Path
) -> None:
    make_class_folder(tmp_path / "raw", per_class=9)
    table = pd.DataFrame({"path": [f"cat/{n:03d}.jpg" for n in range(9)], "label": "pet"})
    table.to_csv(tmp_path / "raw/labels.csv", index=False)
    with pytest.raises(UserError, match=r"one class, 'pet'.*preprocess.source.label_column"):
        prepare("raw", kind="csv")


@pytest.mark.parametrize("per_class", [1, 2])
def test_too_few_images_for_three_splits_are_refused(
    prepare: Prepare, tmp_path: Path, per_class: int
) -> None:
    make_class_folder(tmp_path / "raw", per_class=per_class)
    if per_class == 2:
        shutil.rmtree(tmp_path / "raw/dog")
        make_class_folder(tmp_path / "raw", per_class=1, classes=("dog",))
    with pytest.raises(UserError, match=r"no image falls into (val|test).*from its third image"):
        prepare("raw")


def test_fewer_groups_than_splits_are_refused(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw", per_class=9)
    rows = [(f"{label}/{n:03d}.jpg", label, n % 2) for label in ("cat", "dog") for n in range(9)]
    table = pd.DataFrame(rows, columns=["path", "label", "site"])
    table.to_csv(tmp_path / "raw/labels.csv", index=False)
    with pytest.raises(UserError, match=r"2 groups cannot be divided into train, val, test"):
        prepare("raw", kind="csv", options={"group_column": "site"})
