"""Assignment of splits: stable draws, the source's own splits, and units that stay together."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from components.data.preparation.splits import NO_SPLIT, TEST, TRAIN, VAL, assign_splits
from components.errors import UserError


def make_keys(rows: int) -> list[bytes]:
    return [hashlib.sha256(f"{row}".encode()).digest() for row in range(rows)]


def assign(
    source_splits: np.ndarray,
    val_fraction: float,
    test_fraction: float,
    units: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Assign splits to images with distinct keys; by default, each image is a unit of its own."""
    rows = len(source_splits)
    return assign_splits(
        source_splits,
        np.arange(rows) if units is None else units,
        make_keys(rows).__getitem__,
        val_fraction,
        test_fraction,
        seed,
    )


def draw_all(rows: int, seed: int = 0) -> np.ndarray:
    """Assign splits to images of a source that assigns none."""
    return assign(np.full(rows, NO_SPLIT), 0.1, 0.2, seed=seed)


def test_drawn_shares_match_the_fractions_in_every_part() -> None:
    for part in np.array_split(draw_all(20_000), 10):
        assert abs((part == VAL).mean() - 0.1) < 0.03
        assert abs((part == TEST).mean() - 0.2) < 0.04


def test_more_images_move_no_image() -> None:
    assert np.array_equal(draw_all(2100)[:2000], draw_all(2000))


def test_another_seed_draws_other_splits() -> None:
    assert (draw_all(2000, seed=1) != draw_all(2000)).mean() > 0.2


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


def test_split_without_images_is_refused() -> None:
    with pytest.raises(UserError, match="falls into val"):
        assign(np.array([TRAIN, TRAIN, TEST]), 0.001, 0.1)
