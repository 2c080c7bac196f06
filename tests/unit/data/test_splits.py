"""Splits that more images do not move, and that the source's own splits and groups are kept to."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from components.data.preparation.splits import NONE, TEST, TRAIN, VAL, assign
from components.errors import UserError


def keys(rows: int, prefix: str = "") -> list[bytes]:
    return [hashlib.sha256(f"{prefix}{n}".encode()).digest() for n in range(rows)]


def drawn(rows: int, seed: int = 0, **given: int) -> np.ndarray:
    return assign(np.full(rows, NONE), np.arange(rows), keys(rows).__getitem__, 0.1, 0.2, seed)


def test_shares_come_out_as_draws_do_in_every_class() -> None:
    split = drawn(20_000)
    for part in np.array_split(split, 10):
        assert abs((part == VAL).mean() - 0.1) < 0.03
        assert abs((part == TEST).mean() - 0.2) < 0.04


def test_more_images_move_none_of_the_old_ones_and_another_seed_moves_them() -> None:
    assert np.array_equal(drawn(2100)[:2000], drawn(2000))
    assert (drawn(2000, seed=1) != drawn(2000)).mean() > 0.2


def test_what_the_source_gives_stays_and_only_what_it_does_not_is_cut_out_of_training() -> None:
    given = np.array([TRAIN] * 900 + [TEST] * 100)
    split = assign(given, np.arange(1000), keys(1000).__getitem__, 0.1, 0.5, 0)
    assert (split[900:] == TEST).all()
    assert (split[:900] != TEST).all()
    assert 50 < (split == VAL).sum() < 140
    whole = np.arange(1000) % 3
    assert np.array_equal(assign(whole, np.arange(1000), keys(1000).__getitem__, 0.1, 0.1, 0), whole)


def test_where_some_are_left_open_only_those_are_drawn() -> None:
    given = np.where(np.arange(1000) < 500, TRAIN, NONE)
    split = assign(given, np.arange(1000), keys(1000).__getitem__, 0.2, 0.2, 0)
    assert (split[:500] == TRAIN).all()
    assert {VAL, TEST} <= set(split[500:].tolist())


def test_a_unit_goes_together_and_where_the_source_puts_one_of_it() -> None:
    units = np.arange(3000) // 3
    split = assign(np.full(3000, NONE), units, keys(3000).__getitem__, 0.1, 0.1, 0).reshape(-1, 3)
    assert (split == split[:, :1]).all()
    given = np.where(np.arange(3000) % 3, NONE, np.arange(3000) // 3 % 3)
    split = assign(given, units, keys(3000).__getitem__, 0.1, 0.1, 0).reshape(-1, 3)
    assert (split == split[:, :1]).all()


def test_a_unit_in_two_of_the_sources_splits_is_refused() -> None:
    given = np.array([TRAIN, TEST, VAL, TRAIN])
    with pytest.raises(UserError, match="one group into"):
        assign(given, np.array([0, 0, 1, 2]), keys(4).__getitem__, 0.1, 0.1, 0)


def test_a_split_without_images_is_refused() -> None:
    with pytest.raises(UserError, match="falls into val"):
        assign(np.array([TRAIN, TRAIN, TEST]), np.arange(3), keys(3).__getitem__, 0.001, 0.1, 0)
