"""Selection of images by the stage preprocess: splits, groups, duplicates and warnings."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.data.format.shards import read_split
from components.errors import UserError
from tests.unit.data.hostile import encode, make_class_folder, make_picture
from tests.unit.data.prepared import Prepare, read_quarantine, read_splits


def test_more_images_move_only_what_exact_shares_force(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_class_folder(tmp_path / "raw", per_class=100, size=8)
    before = read_splits(prepare("raw"))
    assert "known from the last run" not in capsys.readouterr().out
    assert Counter((name[:3], split) for name, split in before.items()) == {
        (label, split): n
        for label in ("cat", "dog")
        for split, n in (("train", 60), ("val", 20), ("test", 20))
    }
    for n in range(10):
        (tmp_path / f"raw/cat/!{n}.png").write_bytes(encode(make_picture(5000 + n, 8)))
    after = read_splits(prepare("raw"))
    assert len(after) == len(before) + 10
    moved = [name for name, split in before.items() if after[name] != split]
    assert len(moved) <= 10
    assert all(name.startswith("cat/") for name in moved)
    line = f"{len(moved)} of 200 images known from the last run changed their split"
    assert line in capsys.readouterr().out


def test_long_list_of_classes_is_cut_and_whole_in_the_report(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = tuple(f"kind{n:02d}" for n in range(30))
    make_class_folder(tmp_path / "raw", per_class=5, classes=classes, size=8)
    out = prepare("raw")
    printed = capsys.readouterr().out
    assert "kind04 (3) and 25 more; see the report" in printed
    assert "kind05" not in printed
    assert "kind29 (3)</p>" in (out / "report.html").read_text()


def write_patients(root: Path, per_class: int, per_patient: int) -> dict[str, str]:
    """Write a class folder and its table `labels.csv`; return path -> patient.

    Each patient has `per_patient` images of each class.
    """
    make_class_folder(root, per_class=per_class, size=8)
    rows = [
        (f"{label}/{n:03d}.jpg", label, f"patient {n // per_patient}")
        for label in ("cat", "dog")
        for n in range(per_class)
    ]
    table = pd.DataFrame(rows, columns=["path", "label", "patient"])
    table.to_csv(root / "labels.csv", index=False)
    return dict(zip(table["path"], table["patient"], strict=True))


def test_groups_that_keep_a_class_from_its_shares_cause_a_warning(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_patients(tmp_path / "raw", per_class=30, per_patient=10)
    prepare("raw", kind="csv", options={"group_column": "patient"})
    assert "cat (10 / 10 / 10), dog (10 / 10 / 10)" in capsys.readouterr().out


def copy_into_split_folders(flat: Path, target: Path) -> None:
    """Copy a class folder, a third of its images into each of train, validation and test."""
    for n, path in enumerate(sorted(flat.rglob("*.jpg"))):
        folder = target / ("train", "validation", "test")[n % 3] / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)


def test_splits_of_the_source_are_kept(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "flat", per_class=60, size=8)
    copy_into_split_folders(tmp_path / "flat", tmp_path / "raw")
    splits = read_splits(prepare("raw"))
    assert {(name.split("/")[0], split) for name, split in splits.items()} == {
        ("train", "train"),
        ("validation", "val"),
        ("test", "test"),
    }


def test_same_pixels_in_two_splits_of_the_source_are_refused(
    prepare: Prepare, tmp_path: Path
) -> None:
    make_class_folder(tmp_path / "flat", per_class=60, size=8)
    copy_into_split_folders(tmp_path / "flat", tmp_path / "raw")
    leak = next((tmp_path / "raw/train/cat").iterdir())
    shutil.copy(leak, tmp_path / "raw/test/cat/leak.jpg")
    with pytest.raises(UserError, match=r"1 images are in two of the source's splits.*leak\.jpg"):
        prepare("raw")


def test_near_duplicates_are_reported_or_grouped(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw", per_class=60, size=128)
    names = []
    for path in sorted((tmp_path / "raw").rglob("*.jpg")):
        original = make_picture(int(path.stem) + 100_000 * (path.parent.name == "dog"), 128)
        lighter = np.clip(original.astype(int) + 3, 0, 255).astype(np.uint8)
        path.with_suffix(".png").write_bytes(encode(lighter))
        names.append(f"{path.parent.name}/{path.stem}")
    reported = read_splits(prepare("raw"))
    torn = [name for name in names if reported[f"{name}.jpg"] != reported[f"{name}.png"]]
    assert len(torn) > 10
    page = (tmp_path / "out/report.html").read_text()
    assert "clusters of near-duplicates lie in several splits" in page
    grouped = read_splits(prepare("raw", "grouped", near_duplicates="group", near_distance=6))
    assert all(grouped[f"{name}.jpg"] == grouped[f"{name}.png"] for name in names)


def test_large_cluster_of_near_duplicates_causes_a_warning(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_class_folder(tmp_path / "raw", per_class=60, size=64)
    original = make_picture(0, 64).astype(int)
    for n in range(20):
        lighter = np.clip(original + n + 2, 0, 255).astype(np.uint8)
        (tmp_path / f"raw/cat/again{n}.png").write_bytes(encode(lighter))
    prepare("raw")
    assert "one cluster of near-duplicates holds 21 of 140 images" in capsys.readouterr().out


def test_empty_small_and_missing_classes_cause_warnings(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_class_folder(tmp_path / "raw", per_class=60, size=8)
    (tmp_path / "raw/unicorn").mkdir()
    make_class_folder(tmp_path / "few", per_class=2, classes=("yeti",), size=9)
    shutil.move(tmp_path / "few/yeti", tmp_path / "raw/yeti")
    out = prepare("raw", image_size=8)
    printed = capsys.readouterr().out
    assert "1 folder without images (unicorn/)" in printed
    assert "training images: yeti (" in printed
    assert "missing from " in printed
    assert read_split(out / "train")[1].classes == ["cat", "dog", "yeti"]


def test_group_stays_in_one_split(prepare: Prepare, tmp_path: Path) -> None:
    patients = write_patients(tmp_path / "raw", per_class=90, per_patient=3)
    splits = read_splits(prepare("raw", kind="csv", options={"group_column": "patient"}))
    splits_of_patient: dict[str, set[str]] = {}
    for path, patient in patients.items():
        splits_of_patient.setdefault(patient, set()).add(splits[path])
    assert {len(names) for names in splits_of_patient.values()} == {1}
    assert set.union(*splits_of_patient.values()) == {"train", "val", "test"}


def test_kept_duplicates_stay_in_one_split(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw", per_class=60, size=8)
    for path in list((tmp_path / "raw").rglob("*.jpg")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    kept = read_splits(prepare("raw", "kept", duplicates="keep"))
    assert len(kept) == 240
    assert all(kept[name.replace("copy of ", "")] == split for name, split in kept.items())
    dropped = prepare("raw", "dropped")
    assert len(read_splits(dropped)) == 120
    assert set(read_quarantine(dropped).values()) == {"duplicate"}
