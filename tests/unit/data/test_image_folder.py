"""The `image_folder` source: layouts of real data sets, ignored files, and wrong paths."""

from __future__ import annotations

import os
import re
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import fsspec
import pytest

from components.data.sources.base import ImageSource
from components.errors import UserError
from tests.unit.data.folders import LAYOUTS, Layout, write_layout
from tests.unit.data.hostile import encode, make_class_folder, make_picture
from tests.unit.data.prepared import Prepare, read_quarantine, read_splits
from tests.unit.data.source_helpers import open_source
from tests.unit.data.test_archives import pack


def get_classes(source: ImageSource) -> dict[str, set[str]]:
    """Return the splits of the images of each class."""
    classes = defaultdict(set)
    for entry in source.entries:
        classes[entry.label].add(entry.split)
    return dict(classes)


def check_layout(layout: Layout, path: Path | str, scratch: Path) -> None:
    """Open the source at `path`, and compare it or its error with what the layout expects."""
    options = {"merge_subfolders": layout.merge_subfolders}
    if layout.message:
        with pytest.raises(UserError, match=layout.message):
            open_source("image_folder", path, scratch, **options)
        return
    source = open_source("image_folder", path, scratch, **options)
    assert get_classes(source) == layout.classes
    assert tuple(refusal.path for refusal in source.refused) == layout.refused
    if layout.note:
        assert re.search(layout.note, "\n".join(source.notes))
    else:
        assert source.notes == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_folder_gives_its_layout_or_a_message(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    write_layout(tmp_path / "raw", layout)
    check_layout(layout, tmp_path / "raw", tmp_path)
    if layout.ignored is not None:
        source = open_source("image_folder", tmp_path / "raw")
        assert {kind.name: kind.number for kind in source.ignored} == layout.ignored


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "empty"])
def test_remote_folder_gives_the_same(tmp_path: Path, name: str) -> None:
    write_layout(tmp_path / "raw", LAYOUTS[name])
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "raw"), "/raw", recursive=True)
    try:
        check_layout(LAYOUTS[name], "memory://raw", tmp_path)
    finally:
        memory.rm("/raw", recursive=True)


@pytest.mark.parametrize("name", LAYOUTS)
def test_archive_gives_the_same(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    write_layout(tmp_path / "raw", layout)
    archive = tmp_path / "a.zip"
    pack(tmp_path / "raw", archive)
    (tmp_path / "scratch").mkdir()
    if not layout.message:
        check_layout(layout, archive, tmp_path / "scratch")
        return
    with pytest.raises(UserError) as error:
        open_source("image_folder", archive, tmp_path / "scratch")
    assert str(archive) in str(error.value) or "differ" in str(error.value)
    assert "scratch" not in str(error.value), "the user does not know this folder"
    assert "preprocess.source.path: /" not in str(error.value).replace(str(archive), "")


def test_error_of_an_archive_names_the_folder_to_unpack(tmp_path: Path) -> None:
    write_layout(tmp_path / "raw", LAYOUTS["kaggle_nesting"])
    pack(tmp_path / "raw", tmp_path / "a.zip")
    with pytest.raises(
        UserError,
        match=r"unpack the archive and give its folder Dataset as preprocess\.source\.path",
    ):
        open_source("image_folder", tmp_path / "a.zip", tmp_path)


def test_zip_of_windows_with_backslashes_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("photos\\", "photos\\cat\\0.png", "photos\\dog\\0.png"):
            content = encode(make_picture(len(name))) if name.endswith("png") else b""
            file.writestr(zipfile.ZipInfo(name), content)
        file.writestr("..\\above.png", b"x")
    source = open_source("image_folder", tmp_path / "a.zip", tmp_path)
    assert get_classes(source) == {"cat": {""}, "dog": {""}}
    assert [refusal.reason for refusal in source.refused] == ["outside"]


def test_folder_that_is_called_like_an_archive_is_read(tmp_path: Path) -> None:
    make_class_folder(tmp_path / "photos.zip", per_class=1)
    assert len(open_source("image_folder", tmp_path / "photos.zip").entries) == 2


def test_ignored_files_are_printed_reported_and_not_counted_as_refused(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_class_folder(tmp_path / "raw", per_class=20, size=8)
    for n in range(30):
        (tmp_path / f"raw/cat/{n:03d}.xml").write_text("<annotation/>")
    (tmp_path / "raw/<b>.md").write_text("read me")
    out = prepare("raw", max_quarantined_fraction=0)
    assert (
        "ignored, because they are not images: 30 .xml (cat/000.xml, cat/001.xml, ...), "
        "1 .md (<b>.md); see report.html\n"
    ) in capsys.readouterr().out
    assert read_quarantine(out) == {}
    page = (out / "report.html").read_text()
    assert "<h2>Ignored</h2>" in page
    assert "<code>cat/011.xml</code>, ...</td>" in page
    assert "&lt;b&gt;.md" in page


def test_broken_file_with_the_extension_of_an_image_is_refused(
    prepare: Prepare, tmp_path: Path
) -> None:
    make_class_folder(tmp_path / "raw", per_class=20, size=8)
    for name in ("a.jpg", "b.PNG", "c.psd"):
        (tmp_path / "raw/cat" / name).write_bytes(b"not an image")
    # Begins like an image, whatever its name is.
    (tmp_path / "raw/cat/d.download").write_bytes(b"\xff\xd8\xff\xe0 and so on")
    quarantine = read_quarantine(prepare("raw", max_quarantined_fraction=0.2))
    assert sorted(quarantine) == ["cat/a.jpg", "cat/b.PNG", "cat/c.psd", "cat/d.download"]


def test_source_without_a_usable_image_names_one_per_reason(
    prepare: Prepare, tmp_path: Path
) -> None:
    contents = {"cat": b"", "dog": b"version https://git-lfs.github.com/spec/v1"}
    for name, content in contents.items():
        (tmp_path / "raw" / name).mkdir(parents=True)
        for n in range(3):
            (tmp_path / f"raw/{name}/{n}.jpg").write_bytes(content)
    message = r"none of 6 .*; empty: cat/0.jpg \(no bytes\), format: dog/0.jpg \(.*git lfs pull"
    with pytest.raises(UserError, match=message):
        prepare("raw", image_size=8, max_quarantined_fraction=1)


@pytest.mark.parametrize("name", ["0.dng", "0.NEF", "0.gpr"])
def test_raw_photograph_is_not_used_as_its_preview(
    prepare: Prepare, tmp_path: Path, name: str
) -> None:
    make_class_folder(tmp_path / "raw", per_class=20, size=8)
    # Raw photographs are TIFF files, whose first picture is small.
    (tmp_path / "raw/cat" / name).write_bytes(encode(make_picture(1), "TIFF"))
    assert read_quarantine(prepare("raw", max_quarantined_fraction=0.2)) == {
        f"cat/{name}": "extension"
    }


def test_class_whose_images_are_all_refused_causes_a_warning(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_class_folder(tmp_path / "raw", per_class=20, size=8)
    (tmp_path / "raw/unicorn").mkdir()
    (tmp_path / "raw/unicorn/0.jpg").symlink_to("/nowhere/0.jpg")
    prepare("raw", max_quarantined_fraction=0.1)
    assert "classes without an image: unicorn" in capsys.readouterr().out


def test_class_folder_that_is_a_link_causes_a_note(tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw", per_class=1)
    make_class_folder(tmp_path / "more", per_class=1, classes=("bird",))
    (tmp_path / "raw/bird").symlink_to(tmp_path / "more/bird")
    source = open_source("image_folder", tmp_path / "raw")
    assert source.notes == ["links to folders are not followed: bird"]
    assert [refusal.path for refusal in source.refused] == ["bird"]


def test_folder_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_class_folder(tmp_path / "raw", per_class=1)
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.rstrip("/").endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be read: dog \(Permission denied\)"):
        open_source("image_folder", tmp_path / "raw")


@pytest.mark.parametrize("name", [b"caf\xe9", b"tab\tand space"])
def test_class_folder_whose_name_is_not_printable_is_an_error(tmp_path: Path, name: bytes) -> None:
    make_class_folder(tmp_path / "raw", per_class=1, classes=("cat", "dog", "bird"))
    (tmp_path / "raw/bird").rename(os.fsdecode(os.fsencode(tmp_path / "raw") + b"/" + name))
    with pytest.raises(UserError, match=r"cannot be read: .*not printable text\); change their na"):
        open_source("image_folder", tmp_path / "raw")


def test_note_about_subfolders_is_given_once_for_all_splits(tmp_path: Path) -> None:
    layout = Layout("{train,val}/{cat,dog}/{a,b}/0.jpg", merge_subfolders=True)
    write_layout(tmp_path / "raw", layout)
    source = open_source("image_folder", tmp_path / "raw", merge_subfolders=True)
    assert source.notes == ["images in subfolders belong to the class folder around them: cat, dog"]


def test_folder_of_links_alone_is_explained(tmp_path: Path) -> None:
    make_class_folder(tmp_path / "photos", per_class=1)
    (tmp_path / "raw").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "raw" / name).symlink_to(tmp_path / "photos" / name)
    with pytest.raises(UserError, match=r"cat \(it leads out of the folder\).*\(cp -rL\)"):
        open_source("image_folder", tmp_path / "raw")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data/raw/fotos", r"there is nothing of that name; did you mean data/raw/photos\?"),
        ("data/raw/Photos/", r"did you mean data/raw/photos\?"),
        ("data/rw/photos", r"did you mean data/raw\?"),
        ("elsewhere/x", r"the nearest folder that exists is /.*, which holds a.rar, data, labels"),
        ("data/raw/*", "patterns are not expanded; give the folder itself, such as data/raw$"),
        ("~/photos", "~ is not expanded; write /.*/photos$"),
        ("$HOME/photos", r"variables such as \$HOME are not expanded"),
        ("data\\raw\\photos", "paths have forward slashes; write data/raw/photos$"),
        ("labels.csv", r"a file; for a table .* kind: csv, path: \., table: labels.csv"),
        ("table.parquet", "a file; for Parquet files give kind: parquet"),
        ("a.rar", r"a file; unpack it, or pack it as \.zip"),
        ("data/raw/photos/cat/0.png", "a file; give a folder, such as data/raw/photos/cat, or"),
        ("data/raw/phots.zip", r"is not a file.*did you mean data/raw/photos\?"),
    ],
)
def test_wrong_path_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    (tmp_path / "data/raw/photos/cat").mkdir(parents=True)
    for name in ("data/raw/photos/cat/0.png", "labels.csv", "table.parquet", "a.rar"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"preprocess.source.path: .*{message}"):
        open_source("image_folder", path, tmp_path)


def test_wrong_url_is_explained() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/there/photos/x.csv", b"x")
    try:
        with pytest.raises(UserError, match=r"no such folder; the nearest .* memory:///?there$"):
            open_source("image_folder", "memory://there/fotos")
        with pytest.raises(UserError, match="it is a file"):
            open_source("image_folder", "memory://there/photos/x.csv")
    finally:
        memory.rm("/there", recursive=True)


def test_layouts_are_prepared_from_a_folder_to_splits(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw/Train", per_class=20, size=8)
    make_class_folder(tmp_path / "other", per_class=30, size=8)
    for label in ("cat", "dog"):
        (tmp_path / "raw/valid" / label).mkdir(parents=True)
        for n in range(20, 30):
            (tmp_path / f"other/{label}/{n:03d}.jpg").rename(
                tmp_path / f"raw/valid/{label}/{n:03d}.jpg"
            )
    for name in ("__pycache__/train.pyc", "logs/a.txt", "train.py", "model.py"):
        (tmp_path / "raw" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(b"x")
    splits = read_splits(prepare("raw"))
    assert {name.split("/")[1] for name in splits} == {"cat", "dog"}
    assert {splits[name] for name in splits if name.startswith("valid/")} == {"val"}
    assert {splits[name] for name in splits if name.startswith("Train/")} == {"train", "test"}
