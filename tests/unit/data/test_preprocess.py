"""The stage preprocess, from image files to shards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.format.shards import read_split
from components.data.sources.opening import open_source
from components.errors import UserError
from components.params import load_params
from tests.conftest import make_images, write_idx
from tests.unit.data.hostile import (
    HOSTILE_FILES,
    add_hostile_files,
    encode,
    make_class_folder,
    make_picture,
)
from tests.unit.data.prepared import (
    Prepare,
    assert_same_files,
    read_pixels,
    read_quarantine,
    read_splits,
)

SIZE = 16


def test_hostile_files_are_refused_and_all_others_used(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw")
    expected = add_hostile_files(tmp_path / "raw", tmp_path / "outside.jpg")
    assert len(HOSTILE_FILES) >= 25
    limits = {"max_file_mb": 1, "decode_mb": 256}
    out = prepare("raw", image_size=SIZE, max_quarantined_fraction=0.6, limits=limits)
    assert read_quarantine(out) == expected
    good = {f"{label}/{n:03d}.jpg" for label in ("cat", "dog") for n in range(40)}
    assert read_splits(out).keys() == good | {"cat/again too.bmp", "cat/link within.jpg"}
    settings = load_params().preprocess
    digest = open_source(settings.source, settings.limits).sha256
    assert read_split(out / "val")[1].origin == {"raw": digest}
    page = (out / "report.html").read_text()
    assert "<b>.JPEG" not in page
    assert "&lt;b&gt;.JPEG" in page


def test_message_about_an_empty_split_counts_duplicates_as_one(
    prepare: Prepare, tmp_path: Path
) -> None:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for n in range(9):
            (tmp_path / f"raw/{name}/{n}.png").write_bytes(encode(make_picture(number)))
    with pytest.raises(UserError, match=r"into val and test, of 18 .*duplicates counted as one"):
        prepare("raw", duplicates="keep")


def test_too_many_refusals_stop_the_stage_without_an_out(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw")
    (tmp_path / "raw/cat/bad.jpg").write_bytes(b"no")
    with pytest.raises(
        UserError,
        match=r"(?s)1 of 81 images \(1.23%\) cannot be used.*allows 1.00%.*1 format: cat/bad.jpg",
    ) as error:
        prepare("raw")
    assert str(error.value).endswith("All of them are in .kiln/quarantine.csv")
    assert read_quarantine(tmp_path / ".kiln") == {"cat/bad.jpg": "format"}
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    assert read_quarantine(prepare("raw", max_quarantined_fraction=0.02)) == {
        "cat/bad.jpg": "format"
    }


def test_images_of_different_sizes_need_image_size(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw")
    (tmp_path / "raw/dog/wide.png").write_bytes(encode(make_picture(5, 60)[:30]))
    with pytest.raises(
        UserError,
        match=r"differ in height.*cat/000.jpg \(24x24x3\), dog/wide.png \(30x60x3\).*image_size",
    ):
        prepare("raw")
    pixels = read_pixels(prepare("raw", image_size=16))
    assert pixels["dog/wide.png"].shape == (16, 16, 3)


def test_order_of_a_directory_changes_no_byte(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_class_folder(tmp_path / "raw", per_class=60, size=8)
    scandir = os.scandir

    @contextmanager
    def reverse_scandir(path: Any) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(path) as items:
            yield iter(sorted(items, key=lambda item: item.name, reverse=True))

    one = prepare("raw", "one")
    monkeypatch.setattr(os, "scandir", reverse_scandir)
    two = prepare("raw", "two")
    monkeypatch.undo()
    assert_same_files(one, two)


def test_arrays_are_resized_and_converted(prepare: Prepare, tmp_path: Path) -> None:
    write_idx(tmp_path / "raw", make_images(60), make_images(30, seed=1, prefix="test"))
    pixels = read_pixels(prepare("raw", kind="idx", image_size=8, channels=3))
    assert {image.shape for image in pixels.values()} == {(8, 8, 3)}


def test_arrays_keep_their_pixels_and_test_split(prepare: Prepare, tmp_path: Path) -> None:
    test_images = make_images(30, seed=1, prefix="test")
    write_idx(tmp_path / "raw", make_images(60), test_images)
    out = prepare("raw", kind="idx")
    assert np.array_equal(read_pixels(out)["test/7"], test_images.pixels[7])
    splits = read_splits(out)
    assert {split for name, split in splits.items() if name.startswith("test")} == {"test"}


def test_refused_array_does_not_shift_the_labels_of_others(
    prepare: Prepare, tmp_path: Path
) -> None:
    pixels = [np.full((8, 8), n, np.uint8).tolist() for n in range(60)]
    pixels[5] = [[1, 2], [3]]
    labels = [str(n // 10) for n in range(60)]
    pq.write_table(pa.table({"image": pixels, "label": labels}), tmp_path / "raw.parquet")
    out = prepare("raw.parquet", kind="parquet", max_quarantined_fraction=0.1)
    assert read_quarantine(out) == {"raw.parquet/00000005": "not an image"}
    for split in ("train", "val", "test"):
        images, manifest = read_split(out / split)
        values = images.pixels[:, 0, 0, 0].tolist()
        names = [int(manifest.classes[label]) for label in images.labels]
        assert names == [value // 10 for value in values]
        assert images.ids == [f"raw.parquet/{value:08d}" for value in values]
