from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.training.collectives import pairwise_sum
from components.training.reducer import Reducer, partition_micro_batches
from tests.unit.training.cases import TRAIN


def test_micro_batches_add_up_to_the_gradient_of_the_global_batch() -> None:
    """Holds for a model without batch norm."""
    pixels = torch.from_numpy(TRAIN.pixels).float() / 255
    labels = torch.from_numpy(TRAIN.labels)

    def gradient(num_micro_batches: int) -> Tensor:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3))
        parts = torch.arange(22).tensor_split(num_micro_batches)

        reducer = Reducer(model)

        def compute(i: int) -> None:
            rows = parts[i]
            with reducer.fill_bucket() as sums:
                loss = F.cross_entropy(model(pixels[rows]), labels[rows], reduction="sum")
                (loss / 22).backward()
                sums[0] = loss.detach()
                sums[1] = len(rows)

        totals = reducer.reduce(num_micro_batches, compute).wait()
        assert totals.correct == 22
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        assert totals.gradient_norm == pytest.approx(flat.norm().item(), rel=1e-6)
        return flat

    torch.testing.assert_close(gradient(1), gradient(5))


@pytest.mark.parametrize("num_micro_batches", range(1, 12))
def test_micro_batches_are_partitioned_evenly_into_aligned_blocks(num_micro_batches: int) -> None:
    for world in range(1, 6):
        ranges, block = partition_micro_batches(num_micro_batches, world)
        assert [i for indices in ranges for i in indices] == list(range(num_micro_batches))
        assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
        for indices in ranges:
            assert all(start % block == 0 for start in indices[::block])


@pytest.mark.parametrize("count", range(1, 20))
def test_aligned_blocks_may_be_summed_beforehand(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    parts = [torch.randn(7, generator=generator) * 10 ** (n % 5) for n in range(count)]
    total = pairwise_sum([p.clone() for p in parts])
    exact = torch.stack(parts).double().sum(0).float()
    torch.testing.assert_close(total, exact, rtol=1e-4, atol=1e-3)
    for block in (2, 4, 8):
        sums = [
            pairwise_sum([p.clone() for p in parts[start : start + block]])
            for start in range(0, count, block)
        ]
        assert torch.equal(pairwise_sum(sums), total)
