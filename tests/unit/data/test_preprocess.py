"""Folders as they are in the world, from files to shards."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from components.data import sources
from components.data.format.shards import read_split
from components.errors import UserError
from components.params import load_params
from pipelines import preprocess
from tests.conftest import make_images, write_idx
from tests.unit.data.hostile import FILES, encoded, fill, good_folder, picture

ROOT = Path(__file__).resolve().parents[3]
SIZE = 16


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the stage on a source with given settings; returns the folder that it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)  # for Ray's processes
    monkeypatch.setattr(preprocess, "QUARANTINE", tmp_path / ".kiln" / "quarantine.csv")

    def run(source: Path | str, out: str = "out", kind: str = "image_folder", **settings: Any) -> Path:
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        own = settings.pop("options", {})
        values["preprocess"] = {"source": {"kind": kind, "path": str(source), **own}, "val_fraction": 0.2, "test_fraction": 0.2}
        values["preprocess"] |= settings
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        preprocess.run(tmp_path / out)
        return tmp_path / out

    return run


def quarantine(out: Path) -> dict[str, str]:
    with (out / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def by_id(out: Path) -> dict[str, tuple[str, np.ndarray]]:
    """id -> (split, pixels)"""
    found = {}
    for split in ("train", "val", "test"):
        images, _ = read_split(out / split)
        found |= {name: (split, pixels) for name, pixels in zip(images.ids, images.pixels, strict=True)}
    return found


def test_every_hostile_file_is_refused_for_its_reason_and_the_rest_is_used(prepare: Any, tmp_path: Path) -> None:
    good_folder(tmp_path / "raw")
    expected = fill(tmp_path / "raw", tmp_path / "outside.jpg")
    assert len(FILES) >= 25
    limits = {"max_file_mb": 1, "decode_mb": 256}
    out = prepare("raw", image_size=SIZE, max_quarantined_fraction=0.6, limits=limits)
    assert quarantine(out) == expected
    used = by_id(out)
    names = {f"{c}/{n:03d}.jpg" for c in ("cat", "dog") for n in range(40)} | {"cat/again too.bmp", "cat/link within.jpg"}
    assert set(used) == names
    settings = load_params("params.yaml").preprocess
    assert read_split(out / "val")[1].origin == {"raw": sources.load(settings.source, settings.limits).sha256}
    page = (out / "report.html").read_text()
    assert "<b>.JPEG" not in page
    assert "&lt;b&gt;.JPEG" in page


def test_too_many_refusals_stop_the_stage_and_leave_nothing(prepare: Any, tmp_path: Path) -> None:
    good_folder(tmp_path / "raw")
    (tmp_path / "raw/cat/bad.jpg").write_bytes(b"no")
    with pytest.raises(
        UserError, match=r"(?s)1 of 81 images \(1.23%\) cannot be used.*allows 1.00%.*1 format: cat/bad.jpg"
    ) as error:
        prepare("raw")
    assert str(error.value).endswith("All of them are in .kiln/quarantine.csv")
    assert quarantine(tmp_path / ".kiln") == {"cat/bad.jpg": "format"}
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    assert quarantine(prepare("raw", max_quarantined_fraction=0.02)) == {"cat/bad.jpg": "format"}


def test_pictures_of_different_sizes_need_a_size(prepare: Any, tmp_path: Path) -> None:
    good_folder(tmp_path / "raw")
    (tmp_path / "raw/dog/wide.png").write_bytes(encoded(picture(5, 60)[:30]))
    with pytest.raises(UserError, match=r"differ in height.*cat/000.jpg \(24x24x3\), dog/wide.png \(30x60x3\).*image_size"):
        prepare("raw")
    pixels = by_id(prepare("raw", image_size=16))["dog/wide.png"][1]
    assert pixels.shape == (16, 16, 3)


def same_files(one: Path, two: Path) -> None:
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) >= 8
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_the_number_of_processes_changes_no_byte(prepare: Any, tmp_path: Path) -> None:
    good_folder(tmp_path / "raw", per_class=1100, size=8)
    same_files(prepare("raw", "one", num_workers=1), prepare("raw", "two", num_workers=2))


def test_the_order_of_a_directory_changes_no_byte(prepare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good_folder(tmp_path / "raw", per_class=60, size=8)
    listed = os.scandir

    @contextmanager
    def backwards(path: Any) -> Iterator[Iterator[os.DirEntry[str]]]:
        with listed(path) as items:
            yield iter(sorted(items, key=lambda item: item.name, reverse=True))

    forwards = prepare("raw", "one")
    monkeypatch.setattr(os, "scandir", backwards)
    other = prepare("raw", "two")
    monkeypatch.undo()
    same_files(forwards, other)


def test_five_percent_more_images_move_none(prepare: Any, tmp_path: Path) -> None:
    good_folder(tmp_path / "raw", per_class=100, size=8)
    before = {name: split for name, (split, _) in by_id(prepare("raw")).items()}
    for n in range(10):
        (tmp_path / f"raw/cat/!{n}.png").write_bytes(encoded(picture(5000 + n, 8)))
    after = {name: split for name, (split, _) in by_id(prepare("raw", "more")).items()}
    assert len(after) == len(before) + 10
    assert {name: after[name] for name in before} == before
    assert len(set(before.values())) == 3


def test_ready_made_splits_stay_and_a_leak_between_them_is_fatal(prepare: Any, tmp_path: Path) -> None:
    good_folder(tmp_path / "flat", per_class=60, size=8)
    for n, path in enumerate(sorted((tmp_path / "flat").rglob("*.jpg"))):
        target = tmp_path / "raw" / ("train", "validation", "test")[n % 3] / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    found = by_id(prepare("raw"))
    assert {name.split("/")[0]: split for name, (split, _) in found.items()} == {
        "train": "train",
        "validation": "val",
        "test": "test",
    }
    leak = next((tmp_path / "raw/train/cat").iterdir())
    shutil.copy(leak, tmp_path / "raw/test/cat/leak.jpg")
    with pytest.raises(UserError, match=r"1 images are in two of the source's splits.*leak\.jpg"):
        prepare("raw", "again")


def test_near_duplicates_are_reported_or_kept_together(prepare: Any, tmp_path: Path) -> None:
    good_folder(tmp_path / "raw", per_class=60, size=128)
    for path in sorted((tmp_path / "raw").rglob("*.jpg")):
        original = picture(int(path.stem) + 100_000 * (path.parent.name == "dog"), 128)
        path.with_suffix(".png").write_bytes(encoded(np.clip(original.astype(int) + 3, 0, 255).astype(np.uint8)))
    reported = {name: split for name, (split, _) in by_id(prepare("raw")).items()}
    apart = {name for name in reported if name.endswith(".jpg") and reported[name] != reported[name[:-3] + "png"]}
    assert len(apart) > 10
    assert "clusters of near-duplicates lie in several splits" in (tmp_path / "out/report.html").read_text()
    grouped = {
        name: split for name, (split, _) in by_id(prepare("raw", "grouped", near_duplicates="group", near_distance=6)).items()
    }
    assert all(grouped[name] == grouped[name[:-3] + "png"] for name in grouped if name.endswith(".jpg"))


def test_one_large_cluster_of_near_duplicates_is_doubted(
    prepare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good_folder(tmp_path / "raw", per_class=60, size=64)
    lighter = np.clip(picture(0, 64).astype(int)[None] + np.arange(2, 22)[:, None, None, None], 0, 255).astype(np.uint8)
    for n, pixels in enumerate(lighter):
        (tmp_path / f"raw/cat/again{n}.png").write_bytes(encoded(pixels))
    prepare("raw")
    assert "one cluster of near-duplicates holds 21 of 140 images" in capsys.readouterr().out


def test_classes_that_are_empty_tiny_or_missing_are_named(
    prepare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good_folder(tmp_path / "raw", per_class=60, size=8)
    (tmp_path / "raw/unicorn").mkdir()
    good_folder(tmp_path / "few", per_class=2, classes=("yeti",), size=9)
    shutil.move(tmp_path / "few/yeti", tmp_path / "raw/yeti")
    out = prepare("raw", image_size=8)
    told = capsys.readouterr().out
    assert "classes without an image: unicorn" in told
    assert "training images: yeti (" in told
    assert "missing from " in told
    assert read_split(out / "train")[1].classes == ["cat", "dog", "yeti"]


def test_a_group_stays_in_one_split(prepare: Any, tmp_path: Path) -> None:
    good_folder(tmp_path / "raw", per_class=90, size=8)
    rows = [(f"{c}/{n:03d}.jpg", c, f"patient {n // 3}") for c in ("cat", "dog") for n in range(90)]
    pd.DataFrame(rows, columns=["path", "label", "patient"]).to_csv(tmp_path / "raw/labels.csv", index=False)
    found = by_id(prepare("raw", kind="csv", options={"group_column": "patient"}))
    places: dict[str, set[str]] = {}
    for path, _, patient in rows:
        places.setdefault(patient, set()).add(found[path][0])
    assert {len(place) for place in places.values()} == {1}
    assert set.union(*places.values()) == {"train", "val", "test"}


def test_copies_are_kept_together_if_they_are_kept(prepare: Any, tmp_path: Path) -> None:
    good_folder(tmp_path / "raw", per_class=60, size=8)
    for path in list((tmp_path / "raw").rglob("*.jpg")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    kept = {name: split for name, (split, _) in by_id(prepare("raw", "kept", duplicates="keep")).items()}
    assert len(kept) == 240
    assert all(kept[name.replace("copy of ", "")] == split for name, split in kept.items())
    dropped = prepare("raw", "dropped")
    assert len(by_id(dropped)) == 120
    assert set(quarantine(dropped).values()) == {"duplicate"}


def test_arrays_are_brought_to_a_size_and_to_channels(prepare: Any, tmp_path: Path) -> None:
    write_idx(tmp_path / "raw", make_images(60), make_images(30, seed=1, prefix="test"))
    found = by_id(prepare("raw", kind="idx", image_size=8, channels=3))
    assert {pixels.shape for _, pixels in found.values()} == {(8, 8, 3)}
    same = by_id(prepare("raw", "same", kind="idx"))
    assert np.array_equal(same["test/7"][1], make_images(30, seed=1).pixels[7])
    assert {split for name, (split, _) in same.items() if name.startswith("test")} == {"test"}
