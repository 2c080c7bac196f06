"""Raw images that are not there are reported before anything reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from pydantic import TypeAdapter

from components.data.sources.presence import check_present
from components.errors import UserError
from components.params import Source


def make_source(path: str, kind: str = "image_folder", **options: Any) -> Source:
    source: Source = TypeAdapter(Source).validate_python({"kind": kind, "path": path, **options})
    return source


def refusal(path: str, kind: str = "image_folder") -> str:
    with pytest.raises(UserError) as caught:
        check_present(make_source(path, kind))
    assert str(caught.value).startswith(f"preprocess.source.path: {path}")
    return str(caught.value)


@pytest.fixture(autouse=True)
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "raw").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "raw"


@pytest.mark.parametrize("kind", ["image_folder", "csv", "idx", "parquet"])
def test_missing_folder_is_named_with_its_neighbour(raw: Path, kind: str) -> None:
    (raw / "photos").mkdir()
    assert "did you mean raw/photos?" in refusal("raw/photo", kind)


def test_home_is_not_expanded() -> None:
    assert "~ is not expanded" in refusal("~/photos")


def test_data_that_dvc_tracks_is_to_be_pulled(raw: Path) -> None:
    (raw / "photos.dvc").touch()
    assert "`dvc pull raw/photos.dvc` fetches it" in refusal("raw/photos")
    (raw / "photos").mkdir()
    assert "is empty; DVC tracks it: `dvc pull raw/photos.dvc`" in refusal("raw/photos")


def test_empty_folder_is_refused_unless_torchvision_fills_it(raw: Path) -> None:
    (raw / ".gitignore").touch()
    assert "the folder is empty; put the images there" in refusal("raw")
    check_present(make_source("raw", "torchvision", dataset="MNIST"))


def test_broken_link_is_named_with_its_target(raw: Path) -> None:
    (raw / "photos").symlink_to("/no/such/disk")
    assert "it is a link to /no/such/disk, which does not exist" in refusal("raw/photos")


def test_missing_remote_folder_is_refused() -> None:
    assert "there is no such folder" in refusal("memory://nothing/here")


def test_folder_and_archive_are_accepted(raw: Path) -> None:
    (raw / "cat").mkdir()
    (raw / "photos.zip").touch()
    check_present(make_source("raw"))
    check_present(make_source("raw/photos.zip"))


@pytest.mark.parametrize("kind", ["image_folder", "csv"])
def test_archive_on_another_file_system_is_accepted(kind: str) -> None:
    fsspec.filesystem("memory").pipe("/presence/photos.zip", b"an archive")
    check_present(make_source("memory://presence/photos.zip", kind))
