"""Gradients of one global batch, the same to the bit for any number of ranks.

A global batch is cut into a fixed number of micro-batches. Each micro-batch yields one vector: the
gradient of its part of the mean loss, its running statistics of batch norm, and a few scalars. The
vectors are summed pairwise in a fixed order of micro-batches, whichever ranks computed them. So the
result of a step depends on the micro-batches only, and ranks may come and go. Batch norm normalises
over a micro-batch ("ghost" batch norm, arXiv:1705.08741).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.training.collectives import get_rank_and_world_size, ordered_sum

BATCH_NORM_TYPES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

# Scalars that are summed with the gradient: the loss, the correct predictions, the ranks with a
# pending preemption and the ranks that were asked to stop.
_NUM_SCALARS = 4


@dataclass(frozen=True)
class Totals:
    """Results of one global batch, over all of its micro-batches.

    `loss` is the sum over the images and `correct` the number of correct predictions.
    `preemption_pending` and `stop_requested` are true if they are on any rank.
    """

    loss: float
    correct: int
    preemption_pending: bool
    stop_requested: bool
    gradient_norm: float


def partition_micro_batches(num_micro_batches: int, world: int) -> tuple[list[range], int]:
    """Assign consecutive micro-batches to `world` ranks.

    Returns:
        The micro-batches of each rank, and the largest power of two that divides the start of
        every rank's range.
    """
    bounds = [num_micro_batches * rank // world for rank in range(world + 1)]
    starts = [start for start in bounds[1:-1] if start]
    # `start & -start` is the largest power of two that divides it.
    block = min((start & -start for start in starts), default=1 << num_micro_batches.bit_length())
    return [range(start, stop) for start, stop in itertools.pairwise(bounds)], block


class Reducer:
    """Flat vectors with the gradients and batch-norm statistics of `model`, summed over ranks.

    A vector has three parts: the gradient, the batch-norm statistics (`batch_norm_slice`) and the
    scalars (`scalar_slice`). It is padded so that the number of ranks divides its length L.

    Attributes:
        local_bucket: `(L,)`, filled by one micro-batch. The model's running statistics are views
            into it.
        reduced_bucket: `(L,)`, the sum over all micro-batches.
        scratch: `(S, L)`, this rank's partial sums.
        statistics: batch-norm statistics after the last step.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.batch_norms = [
            m for m in model.modules() if isinstance(m, BATCH_NORM_TYPES) and m.track_running_stats
        ]
        buffers = [
            s for m in self.batch_norms for s in (m.running_mean, m.running_var) if s is not None
        ]
        self.gradient_size = sum(p.numel() for p in self.parameters)
        scalars_start = self.gradient_size + sum(s.numel() for s in buffers)
        used = scalars_start + _NUM_SCALARS
        self.batch_norm_slice = slice(self.gradient_size, scalars_start)
        self.scalar_slice = slice(scalars_start, used)
        self.world = get_rank_and_world_size()[1]
        device = self.parameters[0].device
        length = -(-used // self.world) * self.world
        self.local_bucket: Tensor = torch.zeros(length, device=device)
        # A single rank exchanges nothing: it can sum in place.
        self.reduced_bucket: Tensor = (
            self.local_bucket if self.world == 1 else torch.zeros(length, device=device)
        )
        self.scratch: Tensor = self.local_bucket.new_empty(0, length)
        self.local_gradients = self._gradient_views(self.local_bucket)
        self.reduced_gradients = self._gradient_views(self.reduced_bucket)
        self.statistics = torch.cat(
            [torch.empty(0, device=device), *(s.flatten() for s in buffers)]
        )
        self._move_statistics_into_bucket()

    def _gradient_views(self, bucket: Tensor) -> list[Tensor]:
        """Return one view into `bucket` per parameter, of its shape and strides."""
        views = []
        start = bucket.storage_offset()
        for p in self.parameters:
            views.append(bucket.as_strided(p.size(), p.stride(), start))
            start += p.numel()
        return views

    def _move_statistics_into_bucket(self) -> None:
        start = self.gradient_size
        for module in self.batch_norms:
            for name in ("running_mean", "running_var"):
                size = getattr(module, name).numel()
                # `.data` gives the view a version counter of its own. With a shared one, autograd
                # would take the update of one layer for a change of another layer's statistics.
                setattr(module, name, self.local_bucket[start : start + size].data)
                start += size
        self._reset_statistics()

    def _reset_statistics(self) -> None:
        """Set the model's statistics to those of the last step."""
        self.local_bucket[self.batch_norm_slice] = self.statistics

    def adopt_statistics(self) -> None:
        """Use the model's statistics, which were just loaded, as those of the last step."""
        self.statistics.copy_(self.local_bucket[self.batch_norm_slice])

    def reduce(
        self,
        num_micro_batches: int,
        compute: Callable[[int], Tensor],
        *,
        preemption_pending: bool = False,
        stop_requested: bool = False,
    ) -> Totals:
        """Compute this rank's micro-batches and sum the results over all micro-batches and ranks.

        Afterwards each parameter's `.grad` and the model's statistics are those of the whole global
        batch, on every rank.

        Args:
            num_micro_batches: number of micro-batches of the global batch.
            compute: called with the index of each micro-batch of this rank. Calls `backward` on the
                micro-batch's part of the mean loss and returns its sums of losses and of correct
                predictions, `(2,)`.
            preemption_pending: this rank's node is about to be taken away.
            stop_requested: this rank was asked to stop.
        """
        rank, _ = get_rank_and_world_size()
        ranges, block = partition_micro_batches(num_micro_batches, self.world)
        owned = [-(-len(indices) // block) for indices in ranges]
        slots = self._slots(max(owned), num_micro_batches)
        for slot, start in zip(slots, ranges[rank][::block], strict=False):
            indices = range(start, min(start + block, ranges[rank].stop))
            block_sum = self._sum_block(indices, compute)
            if slot.data_ptr() != block_sum.data_ptr():
                slot.copy_(block_sum)
        flags = torch.tensor(
            [float(preemption_pending), float(stop_requested)], device=slots.device
        )
        if owned[rank]:
            slots[0, self.scalar_slice][2:] = flags
        ordered_sum(slots, owned, self.reduced_bucket)
        for p, view in zip(self.parameters, self.reduced_gradients, strict=True):
            p.grad = view
        torch.div(
            self.reduced_bucket[self.batch_norm_slice], num_micro_batches, out=self.statistics
        )
        self._reset_statistics()
        return self._totals()

    def _totals(self) -> Totals:
        norm = torch.linalg.vector_norm(self.reduced_bucket[: self.gradient_size])
        # One transfer from the device for all five numbers.
        scalars = torch.cat([self.reduced_bucket[self.scalar_slice], norm[None]])
        loss, correct, preemptions, stops, gradient_norm = scalars.tolist()
        return Totals(loss, int(correct), preemptions > 0, stops > 0, gradient_norm)

    def _slots(self, count: int, num_micro_batches: int) -> Tensor:
        """Return uninitialised vectors `(count, L)` for this rank's partial sums.

        A rank that computes at most one micro-batch uses `local_bucket` itself.
        """
        if count == 1 and num_micro_batches <= self.world:
            return self.local_bucket[None]
        if len(self.scratch) < count:
            self.scratch = self.local_bucket.new_empty(count, len(self.local_bucket))
        return self.scratch[:count]

    def scale_gradient(self, factor: float) -> None:
        """Multiply the reduced gradient."""
        self.reduced_bucket[: self.gradient_size].mul_(factor)

    def _sum_block(self, indices: range, compute: Callable[[int], Tensor]) -> Tensor:
        """Return the pairwise sum over an aligned block of micro-batches.

        At most log2 of their number of vectors are in memory at once.
        """
        sums: list[Tensor] = []
        for computed, i in enumerate(indices, 1):
            self._compute(i, compute)
            if len(indices) == 1:
                return self.local_bucket
            sums.append(self.local_bucket.clone())
            # Add the last two sums as often as 2 divides `computed`: both have equally many terms.
            quotient = computed
            while quotient % 2 == 0:
                right = sums.pop()
                sums[-1].add_(right)
                quotient //= 2
        while len(sums) > 1:
            right = sums.pop()
            sums[-1].add_(right)
        return sums[0]

    def _compute(self, i: int, compute: Callable[[int], Tensor]) -> None:
        """Fill `local_bucket` from micro-batch `i`."""
        self.local_bucket[: self.gradient_size].zero_()
        self._reset_statistics()
        for p, view in zip(self.parameters, self.local_gradients, strict=True):
            p.grad = view
        scalars = self.local_bucket[self.scalar_slice]
        scalars[:2] = compute(i)
        scalars[2:] = 0
