"""Assignment of splits: shares per class, stability, the source's own splits, and units."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from components.data.preparation.quotas import compute_asked, compute_quotas
from components.data.preparation.splits import (
    NO_SPLIT,
    TEST,
    TRAIN,
    VAL,
    SplitAssignment,
    SplitInput,
    assign_splits,
)
from components.errors import UserError


def make_keys(rows: int) -> list[bytes]:
    return [hashlib.sha256(f"{row}".encode()).digest() for row in range(rows)]


def assign_all(
    source_splits: np.ndarray,
    labels: np.ndarray,
    val_fraction: float,
    test_fraction: float,
    units: np.ndarray | None = None,
    seed: int = 0,
    keys: Sequence[bytes] | None = None,
) -> SplitAssignment:
    """Assign splits to images with distinct keys; by default, each image is a unit of its own."""
    rows = len(source_splits)
    images = SplitInput(
        source_splits=source_splits,
        labels=labels,
        classes=[f"class {label}" for label in range(int(labels.max()) + 1)],
        units=np.arange(rows) if units is None else units,
        key=(keys or make_keys(rows)).__getitem__,
    )
    return assign_splits(images, val_fraction, test_fraction, seed)


def assign(
    source_splits: np.ndarray,
    val_fraction: float,
    test_fraction: float,
    units: np.ndarray | None = None,
) -> np.ndarray:
    """Assign splits to images of one class."""
    labels = np.zeros(len(source_splits), int)
    return assign_all(source_splits, labels, val_fraction, test_fraction, units).splits


def draw_all(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Assign splits to images of a source that assigns none."""
    return assign_all(np.full(len(labels), NO_SPLIT), labels, 0.1, 0.2, seed=seed).splits


def count(labels: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Return the number of images per class and split."""
    cells = labels * 3 + splits
    return np.bincount(cells, minlength=3 * (int(labels.max()) + 1)).reshape(-1, 3)


@pytest.mark.parametrize(
    "shares", [(0.1, 0.1), (0.15, 0.05), (0.45, 0.45), (1 / 3, 1 / 3), (0, 0.2), (0.3, 0)]
)
def test_quotas_are_within_one_image_and_leave_no_split_without_the_class(
    shares: tuple[float, float],
) -> None:
    counts = np.repeat(np.arange(300), 40)
    offsets = np.tile(np.arange(40) / 40, 300)
    quotas = compute_quotas(counts, offsets, *shares)
    num_drawn = sum(share > 0 for share in shares)
    drawn = [TRAIN, *(split for split, share in zip((VAL, TEST), shares, strict=True) if share)]
    assert (quotas.sum(axis=1) == counts).all()
    assert (quotas[counts > num_drawn][:, drawn] > 0).all()
    # Classes of three and four images may have to give more than their share.
    far = (np.abs(quotas - compute_asked(counts, *shares)) > 1).any(axis=1)
    assert not far[(counts > 4) | (counts == 0)].any()


def test_quotas_of_many_small_classes_add_up_to_the_shares() -> None:
    offsets = np.random.default_rng(0).random(2000)
    quotas = compute_quotas(np.full(2000, 14), offsets, 0.1, 0.1)
    assert quotas.sum(axis=0) == pytest.approx([22_400, 2800, 2800], rel=0.03)


def test_class_of_two_images_is_in_train_and_one_other_and_a_single_image_in_train() -> None:
    quotas = compute_quotas(np.array([2, 2, 1]), np.array([0.1, 0.9, 0.1]), 0.1, 0.1)
    assert quotas.tolist() == [[1, 0, 1], [1, 1, 0], [1, 0, 0]]


def test_twenty_images_a_class_lose_no_class() -> None:
    labels = np.repeat(np.arange(50), 20)
    splits = assign_all(np.full(1000, NO_SPLIT), labels, 0.1, 0.1).splits
    assert (count(labels, splits) == [16, 2, 2]).all()


def test_classes_of_any_size_get_their_shares() -> None:
    labels = np.repeat(np.arange(120), np.arange(5, 125))
    counts = count(labels, draw_all(labels))
    assert (np.abs(counts - counts.sum(axis=1, keepdims=True) * [0.7, 0.1, 0.2]) <= 1 + 1e-6).all()
    assert (counts > 0).all()


def test_more_images_move_few_and_none_between_val_and_test() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 2100)
    before = draw_all(labels[:2000])
    after = draw_all(labels)[:2000]
    moved = np.flatnonzero(before != after)
    assert len(moved) <= 40
    assert all(TRAIN in pair for pair in zip(before[moved], after[moved], strict=True))


def test_more_images_of_one_class_move_no_image_of_another() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 2000)
    after = draw_all(np.append(labels, np.full(500, 4)))[:2000]
    others = labels != 4
    assert np.array_equal(after[others], draw_all(labels)[others])


def test_order_of_the_images_does_not_matter() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 1000)
    units = np.random.default_rng(1).integers(0, 400, 1000)
    source_splits = np.full(1000, NO_SPLIT)
    order = np.random.default_rng(2).permutation(1000)
    keys = make_keys(1000)
    one = assign_all(source_splits, labels, 0.1, 0.1, units, keys=keys).splits
    shuffled = [keys[row] for row in order]
    two = assign_all(source_splits, labels[order], 0.1, 0.1, units[order], keys=shuffled).splits
    assert np.array_equal(one[order], two)


def test_another_seed_draws_other_splits() -> None:
    labels = np.zeros(2000, int)
    assert (draw_all(labels, seed=1) != draw_all(labels)).mean() > 0.2


def test_missing_val_split_is_drawn_from_the_training_split() -> None:
    source_splits = np.array([TRAIN] * 900 + [TEST] * 100)
    splits = assign(source_splits, 0.1, 0.5)
    assert (splits[900:] == TEST).all()
    assert (splits[:900] != TEST).all()
    assert 50 < (splits == VAL).sum() < 140


def test_complete_source_splits_are_kept() -> None:
    source_splits = np.arange(1000) % 3
    assert np.array_equal(assign(source_splits, 0.1, 0.1), source_splits)


def test_only_images_without_a_source_split_are_drawn() -> None:
    splits = assign(np.where(np.arange(1000) < 500, TRAIN, NO_SPLIT), 0.2, 0.2)
    assert (splits[:500] == TRAIN).all()
    assert {VAL, TEST} <= set(splits[500:].tolist())


def test_unit_stays_together() -> None:
    units = np.arange(3000) // 3
    splits = assign(np.full(3000, NO_SPLIT), 0.1, 0.1, units).reshape(-1, 3)
    assert (splits == splits[:, :1]).all()


def test_unit_follows_the_source_split_of_one_of_its_images() -> None:
    rows = np.arange(3000)
    source_splits = np.where(rows % 3, NO_SPLIT, rows // 3 % 3)
    splits = assign(source_splits, 0.1, 0.1, rows // 3).reshape(-1, 3)
    assert (splits == np.arange(1000)[:, None] % 3).all()


def test_unit_in_two_source_splits_is_refused() -> None:
    with pytest.raises(UserError, match="one group into"):
        assign(np.array([TRAIN, TEST, VAL, TRAIN]), 0.1, 0.1, np.array([0, 0, 1, 2]))


def test_single_images_make_up_for_groups() -> None:
    labels = np.repeat(np.arange(4), 200)
    # Half of the images are in groups of five, of one class or across two.
    units = np.arange(800)
    in_group = units % 200 < 100
    units[in_group] = 1000 + units[in_group] % 300 // 5
    result = assign_all(np.full(800, NO_SPLIT), labels, 0.1, 0.1, units)
    assert (np.abs(count(labels, result.splits) - [160, 20, 20]) <= 1).all()
    assert not result.missed.any()
    # Groups are drawn too, not only the images by themselves.
    assert {VAL, TEST} <= set(result.splits[in_group].tolist())
    assert all(len(set(result.splits[units == unit])) == 1 for unit in np.unique(units))


def test_groups_alone_come_near_the_shares_and_classes_that_miss_them_are_named() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(2, 12, 300)
    units = np.repeat(np.arange(300), sizes)
    labels = random.integers(0, 3, len(units))
    result = assign_all(np.full(len(units), NO_SPLIT), labels, 0.1, 0.2, units)
    counts = count(labels, result.splits)
    asked = counts.sum(axis=1, keepdims=True) * [0.7, 0.1, 0.2]
    assert (np.abs(counts - asked) < 6).all()
    assert np.array_equal(result.missed, (np.abs(counts - asked) > 1 + 1e-6).any(axis=1))


def test_three_large_groups_of_all_classes_fill_three_splits() -> None:
    labels = np.arange(60) % 4
    units = np.arange(60) // 4 % 3
    result = assign_all(np.full(60, NO_SPLIT), labels, 0.1, 0.1, units)
    assert (count(labels, result.splits) == 5).all()
    assert result.missed.all()


def test_class_of_one_group_stays_in_train() -> None:
    labels = np.repeat([0, 1], [100, 30])
    units = np.append(np.arange(100), np.full(30, 100))
    counts = count(labels, assign_all(np.full(130, NO_SPLIT), labels, 0.1, 0.1, units).splits)
    assert counts.tolist() == [[80, 10, 10], [30, 0, 0]]
