"""The IDX source, on files as they should be and as they should not."""

from __future__ import annotations

import gzip
import hashlib
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


def write_sums(folder: Path) -> None:
    files = [p for p in folder.iterdir() if p.name != idx.SUMS]
    (folder / idx.SUMS).write_text("".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files))


def test_reads_what_was_written(folder: Path) -> None:
    train, test, classes = idx.load(folder)
    expected = make_images(30)
    assert np.array_equal(train.pixels, expected.pixels)
    assert np.array_equal(train.labels, expected.labels)
    assert train.ids[:2] == ["train/0", "train/1"]
    assert len(test) == 9
    assert classes == ["0", "1", "2"]


def test_gzipped_files_read_the_same(folder: Path) -> None:
    plain = idx.load(folder)[0]
    for path in list(folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert np.array_equal(idx.load(folder)[0].pixels, plain.pixels)


def test_class_names_come_from_their_file(folder: Path) -> None:
    (folder / idx.CLASSES).write_text("top\nshoe\nbag\n")
    assert idx.load(folder)[2] == ["top", "shoe", "bag"]
    (folder / idx.CLASSES).write_text("top\nshoe\n")
    with pytest.raises(UserError, match="labels go up to 2"):
        idx.load(folder)


def test_an_altered_file_is_named_with_both_digests(folder: Path) -> None:
    write_sums(folder)
    path = folder / "train-labels-idx1-ubyte"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"{path.name}: altered, expected sha256 {before}, found {after}"):
        idx.load(folder)


def test_every_missing_file_is_named(folder: Path) -> None:
    write_sums(folder)
    (folder / "train-images-idx3-ubyte").unlink()
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(UserError, match=r"(?s)t10k-images.*missing, expected sha256.*|train-images.*missing") as caught:
        idx.load(folder)
    assert str(caught.value).count("missing, expected sha256") == 2


def test_a_missing_file_is_named_without_sums_too(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte: missing"):
        idx.load(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-5], "its header says"),
        (lambda b: b + b"x", "its header says"),
        (lambda b: b"\x89PNG" + b[4:], "not an IDX file"),
        (lambda b: b[:2] + b"\x0d" + b[3:], "not an IDX file"),
        (lambda b: b[:3], "not an IDX file"),
        (lambda b: b"", "not an IDX file"),
        (lambda b: b[:3] + b"\x09" + b[4:10], "not an IDX file"),
    ],
)
def test_a_malformed_file_is_refused(folder: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        idx.load(folder)
    assert path.name in str(caught.value)


def test_a_truncated_gzip_is_refused(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte"
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        idx.load(folder)


def test_files_that_do_not_belong_together_are_refused(folder: Path) -> None:
    write_idx(folder / "other", make_images(20), make_images(9))
    (folder / "other" / "train-labels-idx1-ubyte").rename(folder / "train-labels-idx1-ubyte")
    with pytest.raises(UserError, match="do not belong together"):
        idx.load(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"preprocess\.source\.path: .*nowhere is not a folder"):
        idx.load(tmp_path / "nowhere")
