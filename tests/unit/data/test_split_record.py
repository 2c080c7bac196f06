"""The record of the last run's splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.data.hostile import make_class_folder
from tests.unit.data.prepared import Prepare, assert_same_files

LINE = "known from the last run"


def find_record(tmp_path: Path) -> Path:
    [record] = (tmp_path / ".kiln/splits").iterdir()
    return record


def test_other_fractions_move_images_and_the_record_changes_no_out(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_class_folder(tmp_path / "raw", per_class=50, size=8)
    prepare("raw", test_fraction=0.4)
    prepare("raw")
    assert f"20 of 100 images {LINE} changed" in capsys.readouterr().out
    prepare("raw")
    assert f"0 of 100 images {LINE} changed" in capsys.readouterr().out
    assert_same_files(tmp_path / "out", prepare("raw", "fresh"))
    assert LINE not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"\x93NUMPY"])
def test_damaged_record_is_ignored_and_replaced(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    make_class_folder(tmp_path / "raw", per_class=10, size=8)
    prepare("raw")
    find_record(tmp_path).write_bytes(content)
    prepare("raw")
    assert LINE not in capsys.readouterr().out
    prepare("raw")
    assert LINE in capsys.readouterr().out


def test_failed_run_keeps_the_record(prepare: Prepare, tmp_path: Path) -> None:
    make_class_folder(tmp_path / "raw", per_class=10, size=8)
    prepare("raw")
    before = find_record(tmp_path).read_bytes()
    (tmp_path / "raw/cat/bad.jpg").write_bytes(b"no")
    with pytest.raises(Exception, match="cannot be used"):
        prepare("raw")
    assert find_record(tmp_path).read_bytes() == before
