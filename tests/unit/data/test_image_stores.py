"""Images in memory or on a node's disk: the same to whoever trains on them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from components.data.format.shards import read_split, write_split
from components.data.loading import image_stores as pools
from components.data.loading.image_stores import Ahead, OnDisk, Resident, open_pool
from components.errors import UserError
from tests.conftest import make_images

CPU = torch.device("cpu")


@pytest.fixture
def split(tmp_path: Path) -> Path:
    write_split(tmp_path / "split", "train", make_images(3000, size=30), ["a", "b", "c"], 1)  # three shards
    return tmp_path / "split"


def test_both_give_the_same_images_labels_and_names(split: Path, tmp_path: Path) -> None:
    memory, disk = (open_pool(split, kind, tmp_path / "cache", CPU, 1) for kind in ("memory", "disk"))
    assert isinstance(memory, Resident)
    assert isinstance(disk, OnDisk)
    assert len(memory) == len(disk) == 3000
    assert torch.equal(memory.labels, disk.labels)
    rows = torch.tensor([2999, 0, 1500, 0, 7])
    assert torch.equal(memory.take(rows), disk.take(rows))
    assert (
        memory.names(rows.tolist())
        == disk.names(rows.tolist())
        == ["train/2999", "train/0", "train/1500", "train/0", "train/7"]
    )


def test_what_does_not_fit_beside_the_others_goes_to_the_disk(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 3000 * 30 * 30

    class Memory:
        available = 8 * size

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    assert isinstance(open_pool(split, "auto", tmp_path / "cache", CPU, sharers=2), Resident)
    assert isinstance(open_pool(split, "auto", tmp_path / "cache", CPU, sharers=3), OnDisk)


def test_the_file_is_made_once_however_many_ask(split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = pools.read_pieces

    def slow(*arguments: object) -> object:
        made.append(arguments)
        time.sleep(0.2)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pools, "read_pieces", slow)
    threads = [threading.Thread(target=open_pool, args=(split, "disk", tmp_path / "cache", CPU, 1)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_file_that_was_cut_is_made_again_and_one_nobody_used_for_long_goes(split: Path, tmp_path: Path) -> None:
    open_pool(split, "disk", tmp_path / "cache", CPU, 1)
    (path,) = (tmp_path / "cache").glob("*.pixels")
    path.write_bytes(path.read_bytes()[:-1])
    old = path.with_name("0.pixels")
    old.touch()
    os.utime(old, (0, 0))
    disk = open_pool(split, "disk", tmp_path / "cache", CPU, 1)
    images, _ = read_split(split)
    assert torch.equal(disk.take(torch.tensor([2999])), torch.from_numpy(images.pixels[2999:]))
    assert not old.exists()


def test_a_disk_without_room_is_told_before_anything_is_written(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1_000_000

    monkeypatch.setattr(pools.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(UserError, match=r"has 0.0 GB left .* KILN_SCRATCH"):
        open_pool(split, "disk", tmp_path / "cache", CPU, 1)
    assert not list((tmp_path / "cache").glob("*.pixels"))


def test_a_damaged_shard_leaves_no_file(split: Path, tmp_path: Path) -> None:
    shard = sorted(split.glob("*.parquet"))[-1]
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match="expected sha256"):
        open_pool(split, "disk", tmp_path / "cache", CPU, 1)
    assert not [p for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")]


def test_batches_expected_are_read_ahead_and_others_come_all_the_same(split: Path, tmp_path: Path) -> None:
    disk = open_pool(split, "disk", tmp_path / "cache", CPU, 1)
    ahead, rows = Ahead(disk), torch.tensor([5, 4])
    ahead.expect((1, 0), rows)
    assert torch.equal(ahead.take((1, 0), rows), disk.take(rows))
    assert torch.equal(ahead.take((1, 1), rows), disk.take(rows))
    assert not ahead.coming
