"""Splits that a node finds on its own disk, without the DVC remote."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from pathlib import Path

import pytest

from components.data.format.shards import write_split
from components.ray_session import split_distribution
from components.ray_session.split_distribution import DistributedSplits, distribute_splits
from tests.conftest import make_images

SPLIT = "data/augmented/train"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one split."""
    root = tmp_path / "driver"
    (root / "data/augmented").mkdir(parents=True)
    (root / "dvc.yaml").write_text("stages: {}\n")
    write_split(root / SPLIT, "train", make_images(10), ["a", "b", "c"], shard_mb=1)
    monkeypatch.setattr(split_distribution, "ROOT", root)
    monkeypatch.setenv("KILN_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return root


def on_another_node(splits: DistributedSplits) -> DistributedSplits:
    """The splits as on a node that does not see the driver's folders."""
    return dataclasses.replace(splits, root=splits.root.parent / "absent")


def test_driver_reads_its_own_folders(driver: Path) -> None:
    splits = distribute_splits([driver / SPLIT])
    assert splits.list_missing() == []
    assert splits.locate(SPLIT) == driver / SPLIT
    assert splits.locate(driver / SPLIT) == driver / SPLIT
    assert splits.fetch_missing() == ""


def test_dvc_files_travel_with_the_splits(driver: Path) -> None:
    splits = pickle.loads(pickle.dumps(distribute_splits([driver / SPLIT])))
    assert splits.dvc_files["dvc.yaml"] == b"stages: {}\n"
    assert b"no_scm = true" in splits.dvc_files[".dvc/config.local"]


def test_split_is_missing_where_folder_and_copy_lack_it(driver: Path) -> None:
    splits = on_another_node(distribute_splits([driver / SPLIT]))
    assert splits.find(SPLIT) is None
    assert splits.list_missing() == [SPLIT]


def test_split_with_other_content_is_missing(driver: Path) -> None:
    splits = distribute_splits([driver / SPLIT])
    shutil.rmtree(driver / SPLIT)
    write_split(driver / SPLIT, "train", make_images(20), ["a", "b", "c"], shard_mb=1)
    assert splits.list_missing() == [SPLIT]


def test_copy_of_the_node_is_used_without_fetching(driver: Path) -> None:
    splits = on_another_node(distribute_splits([driver / SPLIT]))
    copy = splits._copy()
    shutil.copytree(driver, copy)
    assert splits.list_missing() == []
    assert splits.locate(splits.root / SPLIT) == copy / SPLIT
