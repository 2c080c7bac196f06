"""The IDX source: valid, altered and malformed files."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.data.sources import idx
from components.errors import UserError
from tests.conftest import make_images, write_idx


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_idx(tmp_path, make_images(30), make_images(9, seed=1, prefix="test"))
    return tmp_path


def write_checksums(folder: Path) -> None:
    files = [p for p in folder.iterdir() if p.name != idx.CHECKSUM_FILE]
    (folder / idx.CHECKSUM_FILE).write_text(
        "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files)
    )


def test_load_returns_images_labels_ids_and_classes(folder: Path) -> None:
    train, test, classes = idx.load(folder)
    expected = make_images(30)
    assert np.array_equal(train.pixels, expected.pixels)
    assert np.array_equal(train.labels, expected.labels)
    assert train.ids[:2] == ["train/0", "train/1"]
    assert len(test) == 9
    assert classes == ["0", "1", "2"]


def test_gzipped_files_are_read(folder: Path) -> None:
    plain = idx.load(folder)[0]
    for path in list(folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert np.array_equal(idx.load(folder)[0].pixels, plain.pixels)


def test_class_names_are_read_from_classes_txt(folder: Path) -> None:
    (folder / idx.CLASS_FILE).write_text("top\nshoe\nbag\n")
    assert idx.load(folder)[2] == ["top", "shoe", "bag"]
    (folder / idx.CLASS_FILE).write_text("top\nshoe\n")
    with pytest.raises(UserError, match="labels go up to 2"):
        idx.load(folder)


def test_altered_file_is_reported_with_both_digests(folder: Path) -> None:
    write_checksums(folder)
    path = folder / "train-labels-idx1-ubyte"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(
        UserError, match=f"{path.name}: altered, expected sha256 {expected}, found {actual}"
    ):
        idx.load(folder)


def test_all_missing_files_are_reported(folder: Path) -> None:
    write_checksums(folder)
    (folder / "train-images-idx3-ubyte").unlink()
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(
        UserError, match=r"(?s)t10k-images.*missing, expected sha256.*|train-images.*missing"
    ) as error:
        idx.load(folder)
    assert str(error.value).count("missing, expected sha256") == 2


def test_missing_file_is_reported_without_checksums(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte: missing"):
        idx.load(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-5], "its header says"),
        (lambda data: data + b"x", "its header says"),
        (lambda data: b"\x89PNG" + data[4:], "not an IDX file"),
        (lambda data: data[:2] + b"\x0d" + data[3:], "not an IDX file"),
        (lambda data: data[:3], "not an IDX file"),
        (lambda data: b"", "not an IDX file"),
        (lambda data: data[:3] + b"\x09" + data[4:10], "not an IDX file"),
    ],
)
def test_malformed_file_is_refused(
    folder: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        idx.load(folder)
    assert path.name in str(error.value)


def test_truncated_gzip_is_refused(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte"
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        idx.load(folder)


def test_different_numbers_of_images_and_labels_are_refused(folder: Path) -> None:
    write_idx(folder / "other", make_images(20), make_images(9))
    (folder / "other" / "train-labels-idx1-ubyte").rename(folder / "train-labels-idx1-ubyte")
    with pytest.raises(UserError, match="do not belong together"):
        idx.load(folder)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"preprocess\.source\.path: .*nowhere is not a folder"):
        idx.load(tmp_path / "nowhere")
