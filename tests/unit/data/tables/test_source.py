"""The `csv` source: tables in every format and spelling that users have."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import fsspec
import pytest

from components.data.sources.base import Refusal
from components.errors import UserError
from tests.unit.data.source_helpers import open_source, read_all
from tests.unit.data.tables.cases import CATS, FILES, PLAIN, Case
from tests.unit.data.tables.formats import FORMATS
from tests.unit.data.tables.labels import COLUMNS, LABELS
from tests.unit.data.tables.paths import PATHS

CASES = {"format": FORMATS, "columns": COLUMNS, "labels": LABELS, "paths": PATHS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with `FILES`; the content of each is its path."""
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def write_table(folder: Path, case: Case) -> dict[str, Any]:
    """Write a table, and return the settings to read it with."""
    path = folder / case.table
    path.parent.mkdir(exist_ok=True)
    content = case.content.encode() if isinstance(case.content, str) else case.content
    path.write_bytes(content)
    return {"table": case.table, **case.settings}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{group}: {name}")
        for group, cases in CASES.items()
        for name, case in cases.items()
    ],
)
def test_table_gives_its_rows_or_a_message(case: Case, folder: Path) -> None:
    settings = write_table(folder, case)
    if case.message:
        with pytest.raises(UserError) as caught:
            open_source("csv", folder, **settings)
        assert re.search(case.message, str(caught.value), re.DOTALL), str(caught.value)
        return
    source = open_source("csv", folder, **settings)
    contents = read_all(source)
    unread = [content for content in contents.values() if isinstance(content, Refusal)]
    labels = {entry.id: entry.label for entry in source.entries}
    for refusal in unread:
        del labels[refusal.path]
    assert labels == case.rows
    assert all(contents[name] == name.encode() for name in case.rows)
    assert {entry.id: entry.size for entry in source.entries if entry.id in case.rows} == {
        name: len(name.encode()) for name in case.rows
    }
    refused = {
        refusal.path: f"{refusal.reason}: {refusal.detail}" for refusal in source.refused + unread
    }
    assert refused.keys() == case.refused.keys()
    assert all(refused[path].startswith(reason) for path, reason in case.refused.items())


def test_repeated_rows_are_counted(folder: Path) -> None:
    (folder / "labels.csv").write_text(PLAIN + "cat/1,cat\n" * 4)
    source = open_source("csv", folder)
    assert [entry.id for entry in source.entries] == list(CATS)
    assert source.refused == []
    assert "repeated rows that are left out: 4" in source.notes[0]


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ("cat/1.jpg,cat,\ndog/1.jpg,NA,\n", r"a missing value are taken as classes: 'NA' \(1 rows"),
        ("cat/1.jpg,a|b,\ndog/1.jpg,c,\n", r"several in one .*: 'a\|b' \(1 rows"),
        ("cat/1.jpg,a b,\ncat/2.JPG,a,\ndog/1.jpg,b,\n", r"several in one .*: 'a b' \(1 rows"),
        ("cat/1.jpg,cat,nan\ndog/1.jpg,dog,nan\n", r"one group each.*: 'nan' \(2 rows"),
        ("cat/1.jpg,big cat,p 1\ndog/1.jpg,small dog,p/2\n", None),
    ],
)
def test_doubtful_labels_and_groups_are_noted(folder: Path, rows: str, note: str | None) -> None:
    (folder / "labels.csv").write_text("path,label,patient\n" + rows)
    source = open_source("csv", folder, group_column="patient")
    assert len(source.entries) == rows.count("\n")
    assert len(source.notes) == (note is not None)
    assert note is None or re.search(note, source.notes[0])


def test_order_of_rows_does_not_change_the_source(folder: Path) -> None:
    header, *rows = PLAIN.splitlines()
    sources = []
    for order in (rows, rows[::-1]):
        (folder / "labels.csv").write_text("\n".join([header, *order]))
        sources.append(open_source("csv", folder))
    assert list(sources[0].entries) == list(sources[1].entries)
    assert sources[0].sha256 == sources[1].sha256


def test_missing_table_names_those_that_are_there(folder: Path) -> None:
    with pytest.raises(UserError, match="the folder has none"):
        open_source("csv", folder)
    (folder / "train.CSV").write_text(PLAIN)
    (folder / "img/meta.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"labels.csv cannot be read.*img/meta.jsonl, train.CSV"):
        open_source("csv", folder)


def test_paths_through_linked_folders_are_read(folder: Path) -> None:
    (folder / "linked").symlink_to("cat")
    (folder / "labels.csv").write_text("path,label\nlinked/1.jpg,cat\n")
    assert read_all(open_source("csv", folder)) == {"linked/1.jpg": b"cat/1.jpg"}


def test_links_out_of_the_folder_are_refused(folder: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "1.jpg").write_bytes(b"secret")
    (folder / "out").symlink_to(outside)
    (folder / "labels.csv").write_text(PLAIN + "out/1.jpg,cat\n")
    content = read_all(open_source("csv", folder))["out/1.jpg"]
    assert isinstance(content, Refusal)
    assert content.reason == "outside"


def test_table_in_an_object_store_is_read(folder: Path) -> None:
    (folder / "labels.csv").write_text(PLAIN.replace(".jpg", "").replace(".JPG", ""))
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/tables", recursive=True)
    try:
        source = open_source("csv", "memory://tables")
        assert {entry.id: entry.label for entry in source.entries} == CATS
        assert source.sha256 == open_source("csv", folder).sha256
    finally:
        memory.rm("/tables", recursive=True)


def test_table_that_unpacks_to_too_much_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.data.sources.tables.file._MAX_TABLE_BYTES", 1 << 20)
    monkeypatch.setattr("components.data.sources.tables.file._MAX_WORKBOOK_BYTES", 1 << 10)
    (folder / "labels.csv").write_bytes(gzip.compress(bytes(2 << 20)))
    with pytest.raises(UserError, match="unpacks to more than"):
        open_source("csv", folder)
    case = FORMATS["Excel"]
    with pytest.raises(UserError, match="unpacks to"):
        open_source("csv", folder, **write_table(folder, case))


def test_encoding_error_far_into_a_table_is_located(folder: Path) -> None:
    rows = "cat/1.jpg,cat\n" * 200_000
    content = b"path,label\n" + rows.encode() + b"\xff\n"
    (folder / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=f"byte {len(content) - 2:,} .0xFF, line 200,002"):
        open_source("csv", folder)


@pytest.mark.parametrize("name", ["../x", "/x", "C:\\x", "a/../../x"])
def test_image_folder_or_table_outside_is_refused(folder: Path, name: str) -> None:
    for key in ("image_folder", "table"):
        with pytest.raises(ValueError, match=r"a path within preprocess\.source\.path is needed"):
            open_source("csv", folder, **{key: name})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_columns": ["a"]}, "auto, or a list of two or more columns"),
        ({"label_columns": "a"}, "auto, or a list of two or more columns"),
        ({"label_columns": [0, 1]}, r'in quotes: \["0", "1"\]'),
        ({"encoding": "rot13"}, "not a text encoding"),
    ],
)
def test_wrong_settings_are_refused(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source("csv", folder, **settings)
