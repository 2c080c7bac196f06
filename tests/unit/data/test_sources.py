"""Image sources: CSV tables, Parquet, torchvision, class folders and other file systems."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.sources.base import Refusal
from components.data.sources.files.tree import LocalTree, find_unhashable_files
from components.errors import UserError
from tests.conftest import make_images, write_idx
from tests.unit.data.hostile import encode, make_class_folder, make_picture
from tests.unit.data.source_helpers import open_source, read_all

CSV_COLUMNS = {
    "path_column": "file",
    "label_column": "kind",
    "split_column": "part",
    "group_column": "owner",
}


def write_table(folder: Path, rows: list[tuple[str, str, str, str]]) -> None:
    """Write `t.csv` with the columns of `CSV_COLUMNS`."""
    table = pd.DataFrame(rows, columns=list(CSV_COLUMNS.values()))
    table.to_csv(folder / "t.csv", index=False)


def test_csv_gives_labels_splits_and_groups(tmp_path: Path) -> None:
    make_class_folder(tmp_path, per_class=3)
    write_table(
        tmp_path,
        [
            ("cat/000.jpg", "10", "train", "a"),
            ("dog/000.jpg", "9", "test", "b"),
            ("cat/001.jpg", "9", "", "a"),
        ],
    )
    source = open_source("csv", tmp_path, table="t.csv", **CSV_COLUMNS)
    assert {entry.id: (entry.label, entry.split, entry.group) for entry in source.entries} == {
        "cat/000.jpg": ("10", "train", "a"),
        "cat/001.jpg": ("9", "", "a"),
        "dog/000.jpg": ("9", "test", "b"),
    }
    assert source.classes == ["9", "10"], "numeric labels are sorted by value"
    assert all(isinstance(content, bytes) for content in read_all(source).values())
    assert source.refused == []


def test_invalid_csv_rows_are_refused(tmp_path: Path) -> None:
    make_class_folder(tmp_path, per_class=3)
    (tmp_path / "elsewhere").symlink_to("/etc")
    write_table(
        tmp_path,
        [
            ("cat/000.jpg", "9", "train", ""),
            ("cat/002.jpg", "", "train", ""),
            ("dog/001.jpg", "9", "val", ""),
            ("dog/001.jpg", "10", "val", ""),
            ("dog/002.jpg", "9", "val", ""),
            ("dog/002.jpg", "9", "val", ""),
            ("../outside.jpg", "9", "train", ""),
            ("/etc/passwd", "9", "train", ""),
            ("nowhere.jpg", "9", "train", ""),
            ("elsewhere/passwd", "9", "train", ""),
        ],
    )
    source = open_source("csv", tmp_path, table="t.csv", **CSV_COLUMNS)
    contents = read_all(source)
    assert {path for path, content in contents.items() if isinstance(content, bytes)} == {
        "cat/000.jpg",
        "dog/002.jpg",
    }
    unread = [content for content in contents.values() if isinstance(content, Refusal)]
    assert sorted((refusal.path, refusal.reason) for refusal in source.refused + unread) == [
        ("../outside.jpg", "outside"),
        ("/etc/passwd", "outside"),
        ("cat/002.jpg", "no label"),
        ("dog/001.jpg", "two labels"),
        ("dog/001.jpg", "two labels"),
        ("elsewhere/passwd", "outside"),
        ("nowhere.jpg", "unreadable"),
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"label_column": "labl"},
            "label_column is 'labl'; its columns: file, kind, part, owner",
        ),
        (
            {"split_column": "kind", "label_column": "part"},
            r"\['10', '9'\] in the column of splits; known: train, val, test",
        ),
    ],
)
def test_wrong_csv_column_is_refused(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    write_table(tmp_path, [("a.jpg", "10", "train", "a"), ("b.jpg", "9", "test", "b")])
    with pytest.raises(UserError, match=message):
        open_source("csv", tmp_path, table="t.csv", **CSV_COLUMNS | columns)


def test_missing_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels.csv cannot be read.*preprocess.source.table"):
        open_source("csv", tmp_path)


@pytest.mark.parametrize("storage", ["bytes", "struct", "lists", "tensor"])
def test_parquet_files_are_read_as_one_source(tmp_path: Path, storage: str) -> None:
    pixels = [make_picture(n, 10) for n in range(150)]
    column = {
        "bytes": lambda: pa.array([encode(image) for image in pixels]),
        "struct": lambda: pa.array([{"bytes": encode(image), "path": None} for image in pixels]),
        "lists": lambda: pa.array([image.tolist() for image in pixels]),
        "tensor": lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(pixels)),
    }[storage]()
    labels = pa.array([n % 3 for n in range(150)])
    table = pa.table({"image": column, "label": labels, "split": ["train", "test", ""] * 50})
    for n, part in enumerate((table[:100], table[100:])):
        pq.write_table(part, tmp_path / f"{n}.parquet", row_group_size=40)
    source = open_source("parquet", tmp_path, split_column="split")
    assert source.encoded == (storage in ("bytes", "struct"))
    ids = [entry.id for entry in source.entries[99:101]]
    assert ids == ["0.parquet/00000099", "1.parquet/00000000"]
    assert source.classes == ["0", "1", "2"]
    assert source.entries[1].split == "test"
    rows = (0, 39, 40, 99, 100, 149)
    contents = source.read([source.entries[row] for row in rows])
    for row, content in zip(rows, contents, strict=True):
        if source.encoded:
            assert content == encode(pixels[row])
        else:
            assert np.array_equal(content, pixels[row])  # type: ignore[arg-type]


def test_parquet_without_images_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [1.5], "label": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="the image column is double"):
        open_source("parquet", tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        open_source("parquet", tmp_path / "x.parquet")
    with pytest.raises(UserError, match="has none in it"):
        open_source("parquet", tmp_path / "elsewhere")


def test_files_of_torchvision_are_read_in_place(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    write_idx(raw, make_images(30, size=28), make_images(9, size=28, seed=1))
    source = open_source("torchvision", tmp_path, dataset="FashionMNIST")
    assert len(source.entries) == 39
    assert source.classes[0] == "T-shirt/top"
    first = next(iter(source.read(source.entries[:1])))
    assert np.array_equal(first, make_images(30, size=28).pixels[0])


def test_failed_download_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(
        UserError, match=r"torchvision's CIFAR10 is not whole in .* and cannot be fetched"
    ):
        open_source("torchvision", tmp_path, dataset="CIFAR10")


def test_file_systems_give_the_same_source(tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw", per_class=4)
    local = open_source("image_folder", tmp_path / "raw")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "raw"), "/photos", recursive=True)
    try:
        remote = open_source("image_folder", "memory://photos")
        assert read_all(remote) == read_all(local)
        assert remote.sha256 == local.sha256
        assert not remote.shareable
    finally:
        memory.rm("/photos", recursive=True)
    assert read_all(open_source("image_folder", f"file://{tmp_path / 'raw'}")) == read_all(local)
    with pytest.raises(UserError, match="memory://nowhere cannot be read"):
        open_source("image_folder", "memory://nowhere")
    with pytest.raises(UserError, match="nosuch://x cannot be read"):
        open_source("image_folder", "nosuch://x")


def test_file_that_changed_its_type_after_listing_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    tree = LocalTree(tmp_path / "raw")
    (tmp_path / "raw/link.jpg").symlink_to("../secret.jpg")
    os.mkfifo(tmp_path / "raw/pipe.jpg")
    for name in ("link.jpg", "pipe.jpg", "gone.jpg"):
        assert isinstance(tree.read(name, 1000), Refusal), name


def test_files_that_dvc_cannot_hash_are_found(tmp_path: Path) -> None:
    make_class_folder(tmp_path, per_class=1)
    (tmp_path / "link.jpg").symlink_to("cat/000.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    refusals = find_unhashable_files(str(tmp_path))
    assert [refusal.path for refusal in refusals] == ["broken.jpg", "pipe.jpg"]
    assert find_unhashable_files("memory://photos") == []


def test_source_digest_depends_on_content_and_labels(tmp_path: Path) -> None:
    make_class_folder(tmp_path / "one", per_class=3)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    digest = open_source("image_folder", tmp_path / "one").sha256
    assert open_source("image_folder", tmp_path / "two").sha256 == digest
    (tmp_path / "two/cat/000.jpg").write_bytes(encode(make_picture(77), "JPEG"))
    assert open_source("image_folder", tmp_path / "two").sha256 != digest
    (tmp_path / "one/cat/000.jpg").rename(tmp_path / "one/dog/00.jpg")
    assert open_source("image_folder", tmp_path / "one").sha256 != digest


def test_folder_without_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="a folder per class"):
        open_source("image_folder", tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        open_source("image_folder", tmp_path / "nowhere")
