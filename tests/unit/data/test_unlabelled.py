"""Images without labels: a file, folders, archives, tables, Parquet files, other servers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.sources.base import ImageSource
from components.data.sources.unlabelled import Columns, open_unlabelled
from components.errors import UserError
from components.params import Limits
from tests.unit.data.hostile import encode, make_picture
from tests.unit.data.source_helpers import read_all

PNG = encode(make_picture(1))
NAMES = ["a.png", "b/a.png", "b/ü.png"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three images, a text file, an empty folder and a link that leads out."""
    root = tmp_path / "photos"
    (root / "b").mkdir(parents=True)
    (root / "empty").mkdir()
    for name in NAMES:
        (root / name).write_bytes(PNG)
    (root / "notes.txt").write_text("remember the milk")
    (tmp_path / "outside.png").write_bytes(PNG)
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    return root


def open_source(location: Path | str, tmp_path: Path, **columns: str) -> ImageSource:
    return open_unlabelled(str(location), Limits(), tmp_path, Columns(**columns))


def list_ids(source: ImageSource) -> list[str]:
    return [entry.id for entry in source.entries]


def test_folder_is_listed_with_all_folders_in_it(photos: Path, tmp_path: Path) -> None:
    source = open_source(photos, tmp_path)
    assert list_ids(source) == NAMES
    assert {entry.label for entry in source.entries} == {""}
    assert [refusal[:2] for refusal in source.refused] == [("link.png", "link")]
    assert {kind.name for kind in source.ignored} == {".txt", "folder without images"}
    assert set(read_all(source).values()) == {PNG}


def test_one_file_is_read_also_through_a_link(photos: Path, tmp_path: Path) -> None:
    assert read_all(open_source(photos / "a.png", tmp_path)) == {"a.png": PNG}
    assert read_all(open_source(photos / "link.png", tmp_path)) == {"outside.png": PNG}


def test_file_in_the_working_folder_is_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    assert read_all(open_source("a.png", tmp_path)) == {"a.png": PNG}
    Path("list.csv").write_text("path\na.png\n")
    assert read_all(open_source("list.csv", tmp_path)) == {"a.png": PNG}


def test_archive_is_unpacked_and_deleted_with_the_source(photos: Path, tmp_path: Path) -> None:
    packed = tmp_path / "photos.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for name in NAMES:
            archive.write(photos / name, name)
        archive.writestr("../up.png", PNG)
    source = open_source(packed, tmp_path)
    assert list_ids(source) == NAMES
    assert [refusal[:2] for refusal in source.refused] == [("../up.png", "outside")]
    assert set(read_all(source).values()) == {PNG}
    assert source.archive_folder is not None
    folder = Path(source.archive_folder.name)
    assert folder.exists()
    del source
    assert not folder.exists()


@pytest.mark.parametrize("name", ["list.csv", "list.xlsx", "list.jsonl"])
def test_table_lists_paths_beside_it_once_and_in_order(
    photos: Path, tmp_path: Path, name: str
) -> None:
    table = pd.DataFrame({"File": ["b/ü.png", "gone.png", "a.png", "a.png", "link.png"], "n": 1})
    match name.rpartition(".")[2]:
        case "csv":
            table.to_csv(photos / name, index=False)
        case "xlsx":
            table.to_excel(photos / name, index=False)
        case "jsonl":
            table.to_json(photos / name, orient="records", lines=True)
    source = open_source(photos / name, tmp_path, path="file")
    assert list_ids(source) == ["a.png", "b/ü.png"]
    assert [refusal[:2] for refusal in source.refused] == [
        ("gone.png", "missing"),
        ("link.png", "missing"),
    ]


def test_parquet_needs_no_labels(tmp_path: Path) -> None:
    structs = [{"bytes": PNG, "path": "x"}, {"bytes": None, "path": "y"}]
    for name in ("1.parquet", "2.parquet"):
        (tmp_path / "set").mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": structs}), tmp_path / "set" / name)
    contents = read_all(open_source(tmp_path / "set" / "1.parquet", tmp_path))
    assert contents["1.parquet/00000000"] == PNG
    assert contents["1.parquet/00000001"].reason == "empty"
    source = open_source(tmp_path / "set", tmp_path)
    assert len(source.entries) == 4
    assert read_all(source)["2.parquet/00000000"] == PNG


def test_parquet_of_arrays_keeps_its_pixels(tmp_path: Path) -> None:
    pixels = make_picture(2, 8)
    pq.write_table(pa.table({"pixels": [pixels.tolist()]}), tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet", tmp_path, image="pixels")
    assert not source.encoded
    np.testing.assert_array_equal(read_all(source)["x.parquet/00000000"], pixels)


def test_other_servers_are_read_by_their_urls(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in NAMES:
        memory.pipe(f"/bucket/{name}", PNG)
    memory.pipe("/bucket/list.csv", b"path\nb/a.png\n")
    assert list_ids(open_source("memory://bucket", tmp_path)) == NAMES
    assert read_all(open_source("memory://bucket/a.png", tmp_path)) == {"a.png": PNG}
    assert read_all(open_source("memory://bucket/list.csv", tmp_path)) == {"b/a.png": PNG}
    with pytest.raises(UserError, match=r"^SOURCE: memory://bucket/c cannot be read"):
        open_source("memory://bucket/c", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("folder/", None, "^SOURCE: .*folder holds no images; it is empty$"),
        ("folder/notes.txt", b"x", r"^SOURCE: .* holds no images; it holds 1 \.txt \(notes\.txt\)"),
        ("other.png", PNG, "^SOURCE: .*folder is not a file or folder: there is nothing"),
        ("folder.csv", b"file,n\na.png,1\n", "has no column called 'path'; its columns: file, n. "),
        ("folder.csv", b"path,n\n,1\n", "has no paths in the column 'path'"),
        ("folder.csv", b"", "is empty; names of columns"),
        ("folder.parquet", b"x", "cannot be read as Parquet"),
        ("folder.zip", b"x", "cannot be unpacked"),
    ],
)
def test_source_without_images_is_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    location = tmp_path / ("folder" if name.startswith(("folder/", "other")) else name)
    with pytest.raises(UserError, match=message):
        open_source(location, tmp_path)


def test_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="holds no images"):
        open_source(tmp_path / "x.parquet", tmp_path)


def test_json_of_paths_may_be_an_array(photos: Path, tmp_path: Path) -> None:
    (photos / "list.json").write_text(json.dumps([{"path": "a.png"}]))
    assert list_ids(open_source(photos / "list.json", tmp_path)) == ["a.png"]
