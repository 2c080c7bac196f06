from __future__ import annotations

import numpy as np
import pytest

from components.data.images import Images
from components.data.resize import resize
from components.data.splits import hold_out
from components.errors import UserError
from tests.conftest import make_images


def test_hold_out_is_stratified_disjoint_complete_and_seeded() -> None:
    images = make_images(300)
    train, val = hold_out(images, 0.1, seed=7)
    assert sorted(train.ids + val.ids) == sorted(images.ids)
    assert np.bincount(val.labels).tolist() == [10, 10, 10]
    assert hold_out(images, 0.1, seed=7)[1].ids == val.ids
    assert hold_out(images, 0.1, seed=8)[1].ids != val.ids
    row = images.ids.index(val.ids[3])
    assert np.array_equal(val.pixels[3], images.pixels[row])
    assert val.labels[3] == images.labels[row]


def test_hold_out_that_cannot_represent_every_class_is_refused() -> None:
    with pytest.raises(UserError, match=r"val_fraction is 0\.01"):
        hold_out(make_images(100), 0.01, seed=0)
    lonely = make_images(31, classes=3)
    lonely = Images(lonely.pixels, np.where(np.arange(31) == 0, 3, lonely.labels), lonely.ids)
    with pytest.raises(UserError, match="the smallest has 1, 2 are needed"):
        hold_out(lonely, 0.2, seed=0)


def test_resize_keeps_flat_areas_and_the_order_of_images() -> None:
    images = make_images(5, channels=3)
    flat = Images(
        np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 12, 12, 3), np.uint8), images.labels, images.ids
    )
    for size in (8, 24):
        out = resize(flat, size)
        assert out.pixels.shape == (5, size, size, 3)
        assert (out.pixels == np.arange(5)[:, None, None, None]).all()


def test_resize_to_nothing_or_to_the_same_size_changes_nothing() -> None:
    images = make_images(5)
    assert resize(images, None) is images
    assert resize(images, 12) is images
