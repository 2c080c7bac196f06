"""Every kind of source, as users have them: tables, Parquet, archives, torchvision's files, other file systems."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from components.data import sources
from components.data.sources.base import Refusal, Source
from components.data.sources.tree import LocalTree
from components.errors import UserError
from components.params import Limits
from components.params import Source as Settings
from tests.conftest import make_images, write_idx
from tests.unit.data.hostile import encoded, good_folder, picture


def load(kind: str, path: Path | str, scratch: Path | None = None, limits: Limits | None = None, **options: Any) -> Source:
    settings = TypeAdapter(Settings).validate_python({"kind": kind, "path": str(path), **options})
    return sources.load(settings, limits, scratch)


def contents(source: Source) -> dict[str, Any]:
    return {entry.id: content for entry, content in zip(source.entries, source.read(source.entries), strict=True)}


def test_a_csv_names_paths_labels_splits_and_groups(tmp_path: Path) -> None:
    good_folder(tmp_path, per_class=3)
    rows = [
        ("cat/000.jpg", "10", "train", "a"), ("dog/000.jpg", "9", "test", "b"), ("cat/001.jpg", "9", "", "a"),
        ("cat/002.jpg", "", "train", ""), ("dog/001.jpg", "9", "val", ""), ("dog/001.jpg", "10", "val", ""),
        ("dog/002.jpg", "9", "val", ""), ("dog/002.jpg", "9", "val", ""),
        ("../outside.jpg", "9", "train", ""), ("/etc/passwd", "9", "train", ""), ("nowhere.jpg", "9", "train", ""),
    ]  # fmt: skip
    (tmp_path / "elsewhere").symlink_to("/etc")
    rows.append(("elsewhere/passwd", "9", "train", ""))
    pd.DataFrame(rows, columns=["file", "kind", "part", "owner"]).to_csv(tmp_path / "t.csv", index=False)
    columns = {"path_column": "file", "label_column": "kind", "split_column": "part", "group_column": "owner"}
    source = load("csv", tmp_path, table="t.csv", **columns)
    found = contents(source)
    assert {e.id: (e.label, e.split, e.group) for e in source.entries if isinstance(found[e.id], bytes)} == {
        "cat/000.jpg": ("10", "train", "a"),
        "cat/001.jpg": ("9", "", "a"),
        "dog/000.jpg": ("9", "test", "b"),
        "dog/002.jpg": ("9", "val", ""),
    }
    assert source.classes == ["9", "10"], "numbers in their order"
    refused = source.refused + [content for content in found.values() if isinstance(content, Refusal)]
    assert sorted((refusal.path, refusal.reason) for refusal in refused) == [
        ("../outside.jpg", "outside"), ("/etc/passwd", "outside"), ("cat/002.jpg", "no label"), ("dog/001.jpg", "two labels"),
        ("dog/001.jpg", "two labels"), ("dog/002.jpg", "listed twice"),
        ("elsewhere/passwd", "outside"), ("nowhere.jpg", "unreadable"),
    ]  # fmt: skip
    for wrong, told in (
        ({**columns, "label_column": "labl"}, "label_column is 'labl'; its columns: file, kind, part, owner"),
        ({**columns, "split_column": "kind"}, r"\['10', '9'\] in the column of splits; known: train, val, test"),
    ):
        with pytest.raises(UserError, match=told):
            load("csv", tmp_path, table="t.csv", **wrong)
    with pytest.raises(UserError, match=r"labels.csv cannot be read.*preprocess.source.table"):
        load("csv", tmp_path)


@pytest.mark.parametrize("shape", ["bytes", "struct", "lists", "tensor"])
def test_parquet_holds_encoded_images_or_arrays_in_several_shapes(tmp_path: Path, shape: str) -> None:
    pixels = [picture(n, 10) for n in range(150)]
    column = {
        "bytes": lambda: pa.array([encoded(p) for p in pixels]),
        "struct": lambda: pa.array([{"bytes": encoded(p), "path": None} for p in pixels]),
        "lists": lambda: pa.array([p.tolist() for p in pixels]),
        "tensor": lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(pixels)),
    }[shape]()
    table = pa.table({"image": column, "label": pa.array([n % 3 for n in range(150)]), "split": ["train", "test", ""] * 50})
    for n, part in enumerate((table[:100], table[100:])):
        pq.write_table(part, tmp_path / f"{n}.parquet", row_group_size=40)
    source = load("parquet", tmp_path, split_column="split")
    assert source.encoded == (shape in ("bytes", "struct"))
    assert [e.id for e in source.entries[99:101]] == ["0.parquet/00000099", "1.parquet/00000000"]
    assert (source.classes, source.entries[1].split) == (["0", "1", "2"], "test")
    some = [source.entries[n] for n in (0, 39, 40, 99, 100, 149)]
    for n, content in zip((0, 39, 40, 99, 100, 149), source.read(some), strict=True):
        if source.encoded:
            assert content == encoded(pixels[n])
        else:
            assert np.array_equal(content, pixels[n])  # type: ignore[arg-type]


def test_a_column_that_cannot_be_images_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [1.5], "label": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="the image column is double"):
        load("parquet", tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        load("parquet", tmp_path / "x.parquet")
    with pytest.raises(UserError, match="has none in it"):
        load("parquet", tmp_path / "elsewhere")


def test_torchvisions_files_are_read_where_they_lie(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    write_idx(raw, make_images(30, size=28), make_images(9, size=28, seed=1))
    source = load("torchvision", tmp_path, dataset="FashionMNIST")
    assert len(source.entries) == 39
    assert source.classes[0] == "T-shirt/top"
    first = next(iter(source.read(source.entries[:1])))
    assert np.array_equal(first, make_images(30, size=28).pixels[0])


def test_a_data_set_that_can_neither_be_found_nor_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(UserError, match=r"torchvision's CIFAR10 is not whole in .* and cannot be fetched"):
        load("torchvision", tmp_path, dataset="CIFAR10")


def pack(folder: Path, archive: Path) -> None:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, path.relative_to(folder))
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as file:
            file.add(folder, ".")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_archive_is_what_is_in_it(tmp_path: Path, name: str) -> None:
    good_folder(tmp_path / "raw", per_class=4)
    pack(tmp_path / "raw", tmp_path / name)
    (tmp_path / "scratch").mkdir()
    source = load("image_folder", tmp_path / name, tmp_path / "scratch")
    assert contents(source) == contents(load("image_folder", tmp_path / "raw"))
    assert source.sha256 == load("image_folder", tmp_path / "raw").sha256
    assert source.refused == []


def hostile_tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:

        def add(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"x", **facts: Any) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(data) if kind == tarfile.REGTYPE else 0
            for key, value in facts.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)

        add("cat/good.png", data=encoded(picture(1)), mode=0o4777)
        add("/absolute.png")
        add("../above.png")
        add("cat/../../above too.png")
        add("cat/link.png", tarfile.SYMTYPE, linkname="/etc/passwd")
        add("cat/hard.png", tarfile.LNKTYPE, linkname="cat/good.png")
        add("out", tarfile.SYMTYPE, linkname="..")
        add("out/through.png")
        add("cat/device.png", tarfile.CHRTYPE)
        add("cat/pipe.png", tarfile.FIFOTYPE)
        add("cat/good.png", data=b"written over")
        add("cat/good.png/below.png")


def test_a_hostile_archive_writes_nothing_but_regular_files_within(tmp_path: Path) -> None:
    hostile_tar(tmp_path / "a.tar")
    (tmp_path / "scratch").mkdir()
    before = {path for path in tmp_path.rglob("*") if "scratch" not in path.parts}
    source = load("image_folder", tmp_path / "a.tar", tmp_path / "scratch")
    assert {path for path in tmp_path.rglob("*") if "scratch" not in path.parts} == before
    assert contents(source) == {"cat/good.png": encoded(picture(1)), "out/through.png": b"x"}
    assert sorted((refusal.path, refusal.reason) for refusal in source.refused) == [
        ("../above.png", "outside"), ("/absolute.png", "outside"), ("cat/../../above too.png", "outside"),
        ("cat/device.png", "not a file"), ("cat/good.png", "listed twice"), ("cat/good.png/below.png", "listed twice"),
        ("cat/hard.png", "not a file"), ("cat/link.png", "not a file"), ("cat/pipe.png", "not a file"), ("out", "not a file"),
    ]  # fmt: skip
    for path in (tmp_path / "scratch").rglob("*.png"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o7111 == 0


def test_links_in_a_zip_are_no_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        link = zipfile.ZipInfo("cat/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("cat/good.png", encoded(picture(1)))
        file.writestr("../above.png", b"x")
    (tmp_path / "scratch").mkdir()
    source = load("image_folder", tmp_path / "a.zip", tmp_path / "scratch")
    assert set(contents(source)) == {"cat/good.png"}
    assert sorted(r.reason for r in source.refused) == ["not a file", "outside"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"archive_files": 3}, "more members than preprocess.limits.archive_files"),
        ({"archive_gb": 0.0001}, "archive_gb or archive_ratio"),
        ({"archive_ratio": 2}, "archive_gb or archive_ratio"),
    ],
)
def test_an_archive_beyond_its_limits_is_refused(tmp_path: Path, name: str, limits: dict[str, float], told: str) -> None:
    (tmp_path / "raw/cat").mkdir(parents=True)
    for n in range(5):
        (tmp_path / f"raw/cat/{n}.bmp").write_bytes(bytes(1 << 20))
    pack(tmp_path / "raw", tmp_path / name)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(UserError, match=told):
        load("image_folder", tmp_path / name, tmp_path / "scratch", Limits.model_validate({"archive_ratio": 1e6, **limits}))
    assert sum(path.stat().st_size for path in (tmp_path / "scratch").rglob("*") if path.is_file()) < 6 << 20


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no archive at all"])
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_damaged_archive_is_refused(tmp_path: Path, name: str, damage: Any) -> None:
    good_folder(tmp_path / "raw", per_class=4)
    pack(tmp_path / "raw", tmp_path / name)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(UserError, match="cannot be unpacked"):
        load("image_folder", tmp_path / name, tmp_path / "scratch")


def test_other_file_systems_hold_the_same(tmp_path: Path) -> None:
    good_folder(tmp_path / "raw", per_class=4)
    local = load("image_folder", tmp_path / "raw")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "raw"), "/photos", recursive=True)
    try:
        remote = load("image_folder", "memory://photos")
        assert contents(remote) == contents(local)
        assert remote.sha256 == local.sha256
        assert not remote.shareable
    finally:
        memory.rm("/photos", recursive=True)
    assert contents(load("image_folder", f"file://{tmp_path / 'raw'}")) == contents(local)
    with pytest.raises(UserError, match="memory://nowhere cannot be read"):
        load("image_folder", "memory://nowhere")
    with pytest.raises(UserError, match="nosuch://x cannot be read"):
        load("image_folder", "nosuch://x")


def test_a_file_that_turns_into_something_else_after_it_was_listed_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    tree = LocalTree(tmp_path / "raw")
    (tmp_path / "raw/link.jpg").symlink_to("../secret.jpg")
    os.mkfifo(tmp_path / "raw/pipe.jpg")
    for name in ("link.jpg", "pipe.jpg", "gone.jpg"):
        assert isinstance(tree.read(name, 1000), Refusal), name


def test_the_digest_of_a_source_follows_its_content(tmp_path: Path) -> None:
    good_folder(tmp_path / "one", per_class=3)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    digest = load("image_folder", tmp_path / "one").sha256
    assert load("image_folder", tmp_path / "two").sha256 == digest
    (tmp_path / "two/cat/000.jpg").write_bytes(encoded(picture(77), "JPEG"))
    assert load("image_folder", tmp_path / "two").sha256 != digest
    (tmp_path / "one/cat/000.jpg").rename(tmp_path / "one/dog/00.jpg")
    assert load("image_folder", tmp_path / "one").sha256 != digest


def test_a_folder_without_classes_says_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="a folder per class"):
        load("image_folder", tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        load("image_folder", tmp_path / "nowhere")
