"""Sampling: the rows of each epoch and their order."""

from __future__ import annotations

import pytest
import torch

from components.data.loading.sampling import mix_seed, sample_batches


@pytest.mark.parametrize("rows", [48, 50, 49, 5])
def test_epoch_contains_every_row_once_in_full_batches_and_one_remainder(rows: int) -> None:
    batches = sample_batches(torch.zeros(rows), 12, seed=3, epoch=2)
    remainder = [rows % 12] if rows % 12 else []
    assert [len(batch) for batch in batches] == [12] * (rows // 12) + remainder
    assert sorted(torch.cat(batches).tolist()) == list(range(rows))


def test_balanced_epoch_contains_classes_equally_often_and_rows_of_a_class_in_turn() -> None:
    labels = torch.tensor([0] * 100 + [1] * 10 + [2] * 1 + [4] * 3)  # class 3 has no images
    rows = torch.cat(sample_batches(labels, 7, seed=0, epoch=1, balanced=True))
    assert len(rows) == len(labels)
    assert torch.bincount(labels[rows]).tolist() == [29, 29, 28, 0, 28]
    counts = torch.bincount(rows, minlength=len(labels))
    for label in (0, 1, 2, 4):
        class_counts = counts[labels == label]
        assert class_counts.max() - class_counts.min() <= 1
    next_rows = torch.cat(sample_batches(labels, 7, seed=0, epoch=2, balanced=True))
    sampled = (counts > 0) | (torch.bincount(next_rows, minlength=len(labels)) > 0)
    assert sampled[labels == 0].sum() > 40, "the next epoch samples other rows of the large class"


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        rows: list[int] = torch.cat(sample_batches(torch.zeros(100), 10, seed, epoch)).tolist()
        return rows

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (1, 2)}) == 4


@pytest.mark.parametrize("other", [16, 17, 1 << 20, 1 << 30])
def test_every_bit_of_the_seed_counts(other: int) -> None:
    """On a CPU, torch uses the lower 32 bits of a seed alone."""
    labels = torch.zeros(100, dtype=torch.int64)
    (one,), (two,) = (sample_batches(labels, 100, seed, 1) for seed in (0, other))
    assert not torch.equal(one, two)
    draws = [
        torch.rand(5, generator=torch.Generator().manual_seed(mix_seed(seed, 3 << 12)))
        for seed in (0, other)
    ]
    assert not torch.equal(*draws)
