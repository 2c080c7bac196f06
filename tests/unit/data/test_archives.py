"""Archives as image sources: equality with a folder, hostile members and limits."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from components.errors import UserError
from components.params import Limits
from tests.unit.data.hostile import encode, make_class_folder, make_picture
from tests.unit.data.source_helpers import open_source, read_all


def pack(folder: Path, archive: Path) -> None:
    """Write the content of a folder into an archive of the type that its suffix names."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, path.relative_to(folder))
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as file:
            file.add(folder, ".")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_archive_equals_its_folder(tmp_path: Path, name: str) -> None:
    make_class_folder(tmp_path / "raw", per_class=4)
    pack(tmp_path / "raw", tmp_path / name)
    (tmp_path / "scratch").mkdir()
    source = open_source("image_folder", tmp_path / name, tmp_path / "scratch")
    folder_source = open_source("image_folder", tmp_path / "raw")
    assert read_all(source) == read_all(folder_source)
    assert source.sha256 == folder_source.sha256
    assert source.refused == []


def write_hostile_tar(path: Path) -> None:
    """Write a tar archive of one good file and members that try to escape from the folder."""
    with tarfile.open(path, "w") as file:

        def add(
            name: str,
            kind: bytes = tarfile.REGTYPE,
            data: bytes = b"x",
            mode: int = 0o644,
            linkname: str = "",
        ) -> None:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.mode = mode
            info.linkname = linkname
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            file.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)

        add("cat/good.png", data=encode(make_picture(1)), mode=0o4777)
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


def files_outside_scratch(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if "scratch" not in path.parts}


def test_hostile_tar_writes_only_regular_files_below_the_folder(tmp_path: Path) -> None:
    write_hostile_tar(tmp_path / "a.tar")
    (tmp_path / "scratch").mkdir()
    before = files_outside_scratch(tmp_path)
    source = open_source("image_folder", tmp_path / "a.tar", tmp_path / "scratch")
    assert files_outside_scratch(tmp_path) == before
    assert read_all(source) == {
        "cat/good.png": encode(make_picture(1)),
        "out/through.png": b"x",
    }
    assert sorted((refusal.path, refusal.reason) for refusal in source.refused) == [
        ("../above.png", "outside"),
        ("/absolute.png", "outside"),
        ("cat/../../above too.png", "outside"),
        ("cat/device.png", "not a file"),
        ("cat/good.png", "listed twice"),
        ("cat/good.png/below.png", "listed twice"),
        ("cat/hard.png", "not a file"),
        ("cat/link.png", "not a file"),
        ("cat/pipe.png", "not a file"),
        ("out", "not a file"),
    ]
    for path in (tmp_path / "scratch").rglob("*.png"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o7111 == 0


def test_zip_link_and_outside_member_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        link = zipfile.ZipInfo("cat/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("cat/good.png", encode(make_picture(1)))
        file.writestr("../above.png", b"x")
    (tmp_path / "scratch").mkdir()
    source = open_source("image_folder", tmp_path / "a.zip", tmp_path / "scratch")
    assert set(read_all(source)) == {"cat/good.png"}
    assert sorted(refusal.reason for refusal in source.refused) == ["not a file", "outside"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"archive_files": 3}, "more members than preprocess.limits.archive_files"),
        ({"archive_gb": 0.0001}, "archive_gb or archive_ratio"),
        ({"archive_ratio": 2}, "archive_gb or archive_ratio"),
    ],
)
def test_archive_over_a_limit_is_refused_before_it_fills_the_disk(
    tmp_path: Path, name: str, limits: dict[str, float], message: str
) -> None:
    (tmp_path / "raw/cat").mkdir(parents=True)
    for n in range(5):
        (tmp_path / f"raw/cat/{n}.bmp").write_bytes(bytes(1 << 20))
    pack(tmp_path / "raw", tmp_path / name)
    (tmp_path / "scratch").mkdir()
    bounds = Limits.model_validate({"archive_ratio": 1e6, **limits})
    with pytest.raises(UserError, match=message):
        open_source("image_folder", tmp_path / name, tmp_path / "scratch", bounds)
    files = [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6 << 20


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"no archive at all"]
)
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_damaged_archive_is_refused(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    make_class_folder(tmp_path / "raw", per_class=4)
    pack(tmp_path / "raw", tmp_path / name)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(UserError, match="cannot be unpacked"):
        open_source("image_folder", tmp_path / name, tmp_path / "scratch")
