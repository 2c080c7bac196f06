"""The on-disk format: round trips, reproducible bytes, detection of damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.data.format import shards
from components.data.format.images import Images
from components.errors import UserError
from tests.conftest import make_images

CLASSES = ["a", "b", "c", "without images"]


@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip_over_several_shards(tmp_path: Path, channels: int) -> None:
    images = make_images(700, size=64, channels=channels)
    written = shards.write_split(tmp_path / "train", "train", images, CLASSES, shard_mb=1)
    read, manifest = shards.read_split(tmp_path / "train")
    assert len(manifest.shards) > 1
    assert sum(shard.rows for shard in manifest.shards) == manifest.rows == 700
    assert manifest == written
    assert manifest.class_counts == [234, 233, 233, 0]
    assert np.array_equal(read.pixels, images.pixels)
    assert np.array_equal(read.labels, images.labels)
    assert read.ids == images.ids


def test_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        shards.write_split(tmp_path / name, "train", make_images(50), CLASSES, shard_mb=1)
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == ["00000.parquet", "manifest.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_bytes_do_not_depend_on_the_parts_in_which_images_are_added(tmp_path: Path) -> None:
    images = make_images(700, size=64, channels=3)
    shards.write_split(tmp_path / "whole", "train", images, CLASSES, shard_mb=1)
    writer = shards.SplitWriter(
        tmp_path / "parts", "train", images.pixels.shape[1:], CLASSES, shard_mb=1
    )
    for start in range(0, 700, 37):
        writer.add(images.slice(start, min(700, start + 37)))
    manifest = writer.finish()
    assert len(manifest.shards) > 5
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


def test_split_is_read_in_row_groups_and_by_shard(tmp_path: Path) -> None:
    images = make_images(700, size=64, channels=3)
    manifest = shards.write_split(tmp_path / "train", "train", images, CLASSES, shard_mb=1)
    groups = list(shards.read_row_groups(tmp_path / "train", manifest))
    assert [len(group) for group in groups] == [shard.rows for shard in manifest.shards], (
        "a shard of 1 MiB is smaller than the largest row group"
    )
    assert Images.concatenate(groups).ids == images.ids
    second_shard = list(shards.read_row_groups(tmp_path / "train", manifest, slice(1, 2)))
    assert [group.ids for group in second_shard] == [groups[1].ids]
    assert np.array_equal(shards.read_labels(tmp_path / "train", manifest), images.labels)


def test_flipped_bit_and_missing_shard_are_reported(tmp_path: Path) -> None:
    shards.write_split(tmp_path / "val", "val", make_images(50), CLASSES, shard_mb=1)
    path = tmp_path / "val" / "00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        UserError, match=r"00000\.parquet: expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}"
    ):
        shards.read_split(tmp_path / "val")
    path.unlink()
    with pytest.raises(UserError, match="found no file"):
        shards.read_split(tmp_path / "val")


def test_channel_statistics_equal_those_of_all_pixels() -> None:
    pixels = make_images(40, channels=3).pixels
    histogram = shards.ChannelHistogram(3)
    for part in (pixels[:7], pixels[7:]):
        histogram.add(part)
    statistics = histogram.compute_statistics()
    assert np.allclose(statistics.mean, pixels.mean(axis=(0, 1, 2)))
    assert np.allclose(statistics.std, pixels.std(axis=(0, 1, 2)))
