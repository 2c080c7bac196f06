"""Augmented copies: reproducible for each image, balanced on request, originals unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from components.data.augmentation import offline
from components.data.augmentation.offline import (
    ShardSource,
    augment,
    count_copies,
    make_copies,
)
from components.data.augmentation.preview import FirstImages, plot_preview
from components.data.format import shards
from components.data.format.images import Images
from components.params import Augment
from components.paths import ROOT
from tests.conftest import make_images

POLICY = [
    {"name": "horizontal_flip"},
    {"name": "rotation", "degrees": 20},
    {"name": "erasing", "p": 0.5},
]


def settings(**values: object) -> Augment:
    return Augment.model_validate({"copies": 2, "policy": POLICY, **values})


def by_id(images: Images) -> dict[str, bytes]:
    pairs = zip(images.ids, images.pixels, strict=True)
    return {image_id: pixels.tobytes() for image_id, pixels in pairs}


def test_originals_come_first_and_unchanged_then_the_copies() -> None:
    images = make_images(20)
    out = augment(images, settings(), seed=0)
    assert len(out) == 60
    assert np.array_equal(out.pixels[:20], images.pixels)
    assert out.ids[:20] == images.ids
    assert out.ids[20:24] == ["train/0~1", "train/0~2", "train/1~1", "train/1~2"]
    assert np.array_equal(out.labels[20:], np.repeat(images.labels, 2))
    assert len(set(by_id(out).values())) > 55, (
        "copies differ from their originals and from one another"
    )


def test_copy_depends_on_its_image_number_and_seed_alone() -> None:
    images = make_images(20)
    reference = by_id(augment(images, settings(), seed=0))
    of_two_images = by_id(augment(images.take(np.array([13, 4])), settings(), seed=0))
    assert all(reference[image_id] == pixels for image_id, pixels in of_two_images.items())
    with_third_copy = by_id(augment(images, settings(copies=3), seed=0))
    assert all(with_third_copy[image_id] == pixels for image_id, pixels in reference.items())
    assert by_id(augment(images, settings(), seed=1)) != reference


def test_copies_do_not_depend_on_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_images(300)
    one_process = augment(images, settings(), seed=0)
    monkeypatch.setattr(offline, "_MIN_COPIES_FOR_PROCESSES", 1)
    assert by_id(augment(images, settings(), seed=0)) == by_id(one_process)


def test_copies_do_not_depend_on_whether_originals_are_in_memory_or_in_shards(
    tmp_path: Path,
) -> None:
    images = make_images(60, size=192, channels=3)
    manifest = shards.write_split(tmp_path / "train", "train", images, ["a", "b", "c"], shard_mb=1)
    assert len(manifest.shards) > 5
    source = ShardSource(tmp_path / "train", manifest)
    from_shards = Images.concatenate(list(make_copies(source, images.labels, settings(), seed=0)))
    from_memory = augment(images, settings(), seed=0)
    assert by_id(from_shards) == by_id(from_memory.slice(len(images), len(from_memory)))


def test_balance_brings_every_class_to_the_size_of_the_largest() -> None:
    labels = np.array([0] * 50 + [1] * 7 + [3] * 1)
    for copies in (0, 2):
        counts = count_copies(labels, copies, balance=True)
        totals = np.bincount(labels) + np.bincount(labels, counts).astype(int)
        assert totals.tolist() == [50 * (1 + copies), 50 * (1 + copies), 0, 50 * (1 + copies)]
        assert counts[labels == 1].max() - counts[labels == 1].min() <= 1


def test_balancing_a_class_of_one_percent_makes_distinct_copies() -> None:
    labels = np.array([0] * 500 + [1] * 5)
    images = Images(make_images(505).pixels, labels, [f"train/{n}" for n in range(505)])
    out = augment(images, settings(copies=0, balance=True), seed=0)
    assert np.bincount(out.labels).tolist() == [500, 500]
    copies = out.pixels[505:]
    assert len({copy.tobytes() for copy in copies}) > 480
    originals = {image_id.split("~")[0] for image_id in out.ids[505:]}
    assert originals == {f"train/{n}" for n in range(500, 505)}


def test_default_settings_copy_nothing() -> None:
    images = make_images(5)
    assert by_id(augment(images, Augment(), seed=0)) == by_id(images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "operation",
    [
        {"name": "trivial_augment"},
        *({"name": "auto_augment", "policy": p} for p in ("imagenet", "cifar10", "svhn")),
    ],
)
def test_learnt_policies_change_images_reproducibly(
    operation: dict[str, object], channels: int
) -> None:
    images = make_images(40, channels=channels)
    out = augment(images, settings(copies=1, policy=[operation]), seed=0)
    assert out.pixels.dtype == np.uint8
    assert (out.pixels[40:] != images.pixels).any(axis=(1, 2, 3)).sum() > 8
    assert by_id(augment(images, settings(copies=1, policy=[operation]), seed=0)) == by_id(out)


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
        {
            "name": "colour_jitter",
            "brightness": 0.5,
            "contrast": 0.5,
            "saturation": 0.5,
            "hue": 0.2,
        },
        {"name": "rand_augment", "operations": 4, "magnitude": 15},
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_changes_pixels_and_keeps_the_shape(
    operation: dict[str, object], channels: int
) -> None:
    images = make_images(8, channels=channels)
    out = augment(images, settings(copies=1, policy=[operation]), seed=0)
    assert out.pixels.shape == (16, 12, 12, channels)
    changed = (out.pixels[8:] != images.pixels).any(axis=(1, 2, 3))
    assert changed.sum() >= 7


def test_horizontal_flip_mirrors_the_columns() -> None:
    images = make_images(3)
    out = augment(images, settings(copies=1, policy=[{"name": "horizontal_flip", "p": 1}]), seed=0)
    assert np.array_equal(out.pixels[3:], images.pixels[:, :, ::-1])


@pytest.mark.parametrize("channels", [1, 3])
def test_preview_is_a_reproducible_png(tmp_path: Path, channels: int) -> None:
    images = make_images(12, channels=channels)
    for name in ("one.png", "two.png"):
        plot_preview(images, ["a", "b", "c", "empty"], settings(), 0, tmp_path / name)
    data = (tmp_path / "one.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize(
    ("values", "width"),
    [
        (settings(copies=1), 790),
        (settings(copies=0, balance=True), 790),
        (settings(copies=0), 250),
        (Augment(), 250),
    ],
    ids=["copies", "copies of small classes", "no copies", "no policy"],
)
def test_preview_shows_copies_only_if_the_split_has_them(
    values: Augment, width: int, tmp_path: Path
) -> None:
    plot_preview(make_images(12), ["a", "b", "c"], values, 0, tmp_path / "preview.png")
    assert matplotlib.image.imread(tmp_path / "preview.png").shape[:2] == (320, width)


def test_first_images_are_collected_from_parts_in_the_order_of_the_classes() -> None:
    images = make_images(12).take(np.array([2, 5, 1, 4, 0, 3]))
    first_images = FirstImages(4)
    for start in range(0, 6, 2):
        first_images.add(images.slice(start, start + 2))
    assert first_images.images().ids == ["train/0", "train/1", "train/2"]


def test_stage_without_copies_imports_no_torch() -> None:
    """Importing torch and torchvision takes longer than copying a split."""
    code = (
        "import sys; import pipelines.augment, components.data.augmentation.preview; "
        "print('torch' in sys.modules, 'torchvision' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
