"""The stage preprocess on Ray tasks."""

from __future__ import annotations

from pathlib import Path

from tests.unit.data.conftest import prepare  # noqa: F401 (a fixture)
from tests.unit.data.hostile import make_class_folder
from tests.unit.data.prepared import Prepare, assert_same_files


def test_number_of_processes_changes_no_byte(prepare: Prepare, tmp_path: Path) -> None:  # noqa: F811
    make_class_folder(tmp_path / "raw", per_class=1100, size=8)
    assert_same_files(prepare("raw", "one", num_workers=1), prepare("raw", "two", num_workers=2))
