"""Image stores: images in memory and in a file on the node's disk."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from components.data.format.shards import read_split, write_split
from components.data.loading import image_stores
from components.data.loading.image_stores import (
    DiskImages,
    InMemoryImages,
    Prefetcher,
    open_image_store,
)
from components.errors import UserError
from tests.conftest import make_images

CPU = torch.device("cpu")


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A split of three shards."""
    folder = tmp_path / "split"
    write_split(folder, "train", make_images(3000, size=30), ["a", "b", "c"], shard_mb=1)
    return folder


def test_memory_and_disk_give_the_same_images_labels_and_ids(split: Path, tmp_path: Path) -> None:
    memory = open_image_store(split, "memory", tmp_path / "cache", CPU, 1)
    disk = open_image_store(split, "disk", tmp_path / "cache", CPU, 1)
    assert isinstance(memory, InMemoryImages)
    assert isinstance(disk, DiskImages)
    assert len(memory) == len(disk) == 3000
    assert torch.equal(memory.labels, disk.labels)
    rows = torch.tensor([2999, 0, 1500, 0, 7])
    assert torch.equal(memory.fetch(rows), disk.fetch(rows))
    ids = ["train/2999", "train/0", "train/1500", "train/0", "train/7"]
    assert memory.fetch_ids(rows.tolist()) == disk.fetch_ids(rows.tolist()) == ids


def test_auto_takes_the_disk_when_all_workers_together_would_need_too_much_memory(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = 8 * 3000 * 30 * 30

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    two_workers = open_image_store(split, "auto", tmp_path / "cache", CPU, workers_on_node=2)
    three_workers = open_image_store(split, "auto", tmp_path / "cache", CPU, workers_on_node=3)
    assert isinstance(two_workers, InMemoryImages)
    assert isinstance(three_workers, DiskImages)


def test_concurrent_workers_write_the_pixel_file_once(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    read_row_groups = image_stores.read_row_groups

    def read_slowly(*arguments: object) -> object:
        calls.append(arguments)
        time.sleep(0.2)
        return read_row_groups(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(image_stores, "read_row_groups", read_slowly)
    threads = [
        threading.Thread(target=open_image_store, args=(split, "disk", tmp_path / "cache", CPU, 1))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_truncated_pixel_file_is_rewritten_and_stale_files_are_deleted(
    split: Path, tmp_path: Path
) -> None:
    open_image_store(split, "disk", tmp_path / "cache", CPU, 1)
    (path,) = (tmp_path / "cache").glob("*.pixels")
    path.write_bytes(path.read_bytes()[:-1])
    stale = path.with_name("0.pixels")
    stale.touch()
    os.utime(stale, (0, 0))
    disk = open_image_store(split, "disk", tmp_path / "cache", CPU, 1)
    images, _ = read_split(split)
    assert torch.equal(disk.fetch(torch.tensor([2999])), torch.from_numpy(images.pixels[2999:]))
    assert not stale.exists()


def test_pixel_file_truncated_during_training_is_reported(split: Path, tmp_path: Path) -> None:
    disk = open_image_store(split, "disk", tmp_path / "cache", CPU, 1)
    (path,) = (tmp_path / "cache").glob("*.pixels")
    os.truncate(path, path.stat().st_size - 1)
    assert len(disk.fetch(torch.tensor([0]))) == 1
    with pytest.raises(UserError, match="was cut short; remove it"):
        disk.fetch(torch.tensor([2999]))


def test_full_disk_is_reported_before_anything_is_written(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1_000_000

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(UserError, match=r"has 0.0 GB left .* KILN_SCRATCH"):
        open_image_store(split, "disk", tmp_path / "cache", CPU, 1)
    assert not list((tmp_path / "cache").glob("*.pixels"))


def test_damaged_shard_leaves_no_pixel_file(split: Path, tmp_path: Path) -> None:
    shard = sorted(split.glob("*.parquet"))[-1]
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match="expected sha256"):
        open_image_store(split, "disk", tmp_path / "cache", CPU, 1)
    assert not [p for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")]


def test_prefetcher_returns_submitted_and_other_batches(split: Path, tmp_path: Path) -> None:
    disk = open_image_store(split, "disk", tmp_path / "cache", CPU, 1)
    prefetcher = Prefetcher(disk)
    rows = torch.tensor([5, 4])
    prefetcher.submit((1, 0), rows)
    assert torch.equal(prefetcher.get((1, 0), rows), disk.fetch(rows))
    assert torch.equal(prefetcher.get((1, 1), rows), disk.fetch(rows))
    assert not prefetcher.pending


def test_prefetcher_leaves_images_in_memory_where_they_are(split: Path, tmp_path: Path) -> None:
    memory = open_image_store(split, "memory", tmp_path / "cache", CPU, 1)
    prefetcher = Prefetcher(memory)
    rows = torch.tensor([5, 4])
    prefetcher.submit((1, 0), rows)
    assert not prefetcher.pending
    assert torch.equal(prefetcher.get((1, 0), rows), memory.fetch(rows))
