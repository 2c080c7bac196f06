"""The materialised copies: deterministic per image, balanced when asked, the originals untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.data.augmentation import offline
from components.data.augmentation.offline import OnDisk, augment, copies_per_image, make_copies
from components.data.augmentation.preview import preview
from components.data.format import shards
from components.data.format.images import Images
from components.params import Augment
from tests.conftest import make_images

POLICY = [{"name": "horizontal_flip"}, {"name": "rotation", "degrees": 20}, {"name": "erasing", "p": 0.5}]


def settings(**values: object) -> Augment:
    return Augment.model_validate({"copies": 2, "policy": POLICY, **values})


def by_id(images: Images) -> dict[str, bytes]:
    return {name: pixels.tobytes() for name, pixels in zip(images.ids, images.pixels, strict=True)}


def test_originals_come_first_and_unchanged_then_the_named_copies() -> None:
    images = make_images(20)
    out = augment(images, settings(), seed=0)
    assert len(out) == 60
    assert np.array_equal(out.pixels[:20], images.pixels)
    assert out.ids[:20] == images.ids
    assert out.ids[20:24] == ["train/0~1", "train/0~2", "train/1~1", "train/1~2"]
    assert np.array_equal(out.labels[20:], np.repeat(images.labels, 2))
    assert len(set(by_id(out).values())) > 55, "copies differ from their originals and from one another"


def test_a_copy_depends_on_nothing_but_its_own_image() -> None:
    images = make_images(20)
    whole = by_id(augment(images, settings(), seed=0))
    some = by_id(augment(images.take(np.array([13, 4])), settings(), seed=0))
    assert all(whole[name] == pixels for name, pixels in some.items())
    more = by_id(augment(images, settings(copies=3), seed=0))
    assert all(more[name] == pixels for name, pixels in whole.items())
    assert by_id(augment(images, settings(), seed=1)) != whole


def test_processes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_images(300)
    alone = augment(images, settings(), seed=0)
    monkeypatch.setattr(offline, "_PARALLEL_FROM", 1)
    assert by_id(augment(images, settings(), seed=0)) == by_id(alone)


def test_balance_brings_every_class_to_the_size_of_the_largest() -> None:
    labels = np.array([0] * 50 + [1] * 7 + [3] * 1)
    for copies in (0, 2):
        counts = copies_per_image(labels, copies, balance=True)
        totals = np.bincount(labels) + np.bincount(labels, counts).astype(int)
        assert totals.tolist() == [50 * (1 + copies), 50 * (1 + copies), 0, 50 * (1 + copies)]
        assert counts[labels == 1].max() - counts[labels == 1].min() <= 1


def test_at_a_hundred_to_one_every_class_ends_alike_and_no_two_copies_of_an_image_are() -> None:
    labels = np.array([0] * 500 + [1] * 5)
    images = Images(make_images(505).pixels, labels, [f"train/{n}" for n in range(505)])
    out = augment(images, settings(copies=0, balance=True), seed=0)
    assert np.bincount(out.labels).tolist() == [500, 500]
    copies = out.pixels[505:]
    assert len({copy.tobytes() for copy in copies}) > 480
    assert {name.split("~")[0] for name in out.ids[505:]} == {f"train/{n}" for n in range(500, 505)}


def test_no_copies_no_change() -> None:
    images = make_images(5)
    assert by_id(augment(images, Augment(), seed=0)) == by_id(images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "operation",
    [{"name": "trivial_augment"}, *({"name": "auto_augment", "policy": p} for p in ("imagenet", "cifar10", "svhn"))],
)
def test_learnt_policies_change_most_images_and_always_in_the_same_way(operation: dict[str, object], channels: int) -> None:
    images = make_images(40, channels=channels)
    out = augment(images, settings(copies=1, policy=[operation]), seed=0)
    assert out.pixels.dtype == np.uint8
    assert (out.pixels[40:] != images.pixels).any(axis=(1, 2, 3)).sum() > 8
    assert by_id(augment(images, settings(copies=1, policy=[operation]), seed=0)) == by_id(out)


def test_from_disk_a_shard_at_a_time_the_copies_are_the_same(tmp_path: Path) -> None:
    images = make_images(900, size=48, channels=3)
    manifest = shards.write_split(tmp_path / "train", "train", images, ["a", "b", "c"], shard_mb=1)
    assert len(manifest.shards) > 5
    labels = shards.read_labels(tmp_path / "train", manifest)
    assert np.array_equal(labels, images.labels)
    found = Images.concatenate(list(make_copies(OnDisk(tmp_path / "train", manifest), labels, settings(), seed=0)))
    assert by_id(found) == {name: p for name, p in by_id(augment(images, settings(), seed=0)).items() if "~" in name}


@pytest.mark.parametrize(
    "operation",
    [
        {"name": "horizontal_flip", "p": 1},
        {"name": "vertical_flip", "p": 1},
        {"name": "crop", "padding": 3},
        {"name": "shift", "fraction": 0.3},
        {"name": "rotation", "degrees": 45},
        {"name": "erasing", "p": 1, "scale": [0.2, 0.3]},
        {"name": "resized_crop", "scale": [0.3, 0.5]},
        {"name": "affine", "degrees": 30, "translate": 0.2, "scale": [0.6, 0.8], "shear": 10},
        {"name": "colour_jitter", "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.2},
        {"name": "rand_augment", "operations": 4, "magnitude": 15},
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_changes_pixels_and_keeps_the_shape(operation: dict[str, object], channels: int) -> None:
    images = make_images(8, channels=channels)
    out = augment(images, settings(copies=1, policy=[operation]), seed=0)
    assert out.pixels.shape == (16, 12, 12, channels)
    changed = (out.pixels[8:] != images.pixels).any(axis=(1, 2, 3))
    assert changed.sum() >= 7


def test_flip_is_a_flip() -> None:
    images = make_images(3)
    out = augment(images, settings(copies=1, policy=[{"name": "horizontal_flip", "p": 1}]), seed=0)
    assert np.array_equal(out.pixels[3:], images.pixels[:, :, ::-1])


@pytest.mark.parametrize("channels", [1, 3])
def test_preview_is_a_picture_and_always_the_same(tmp_path: Path, channels: int) -> None:
    images = make_images(12, channels=channels)
    for name in ("one.png", "two.png"):
        preview(images, ["a", "b", "c", "empty"], settings(), 0, tmp_path / name)
    data = (tmp_path / "one.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data == (tmp_path / "two.png").read_bytes()
