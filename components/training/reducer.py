"""Gradients of one global batch, the same to the bit for any number of ranks.

A global batch is cut into a fixed number of micro-batches. Each micro-batch yields one vector: the
gradient of its part of the mean loss, its running statistics of batch norm, and a few scalars. The
vectors are summed pairwise in a fixed order of micro-batches, whichever ranks computed them. So the
result of a step depends on the micro-batches only, and ranks may come and go. Batch norm normalises
over a micro-batch ("ghost" batch norm, arXiv:1705.08741).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from components.training.collectives import get_rank_and_world_size, ordered_sum
from components.training.cuda_graphs import GraphedFunction
from components.training.totals import NUM_SCALARS, PendingTotals

BATCH_NORM_TYPES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

# Batch-norm statistics begin at multiples of so many elements: cuDNN reads several at once.
_ALIGNMENT = 64


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
        totals: `(5,)`, the fields of `Totals` after the last `reduce`.
        statistics: batch-norm statistics after the last step.
        can_be_captured: a micro-batch can be replayed as a CUDA graph.
    """

    can_be_captured = True

    def __init__(self, model: nn.Module, *, cuda_graphs: bool = True) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.batch_norms = [
            m
            for m in model.modules()
            if isinstance(m, BATCH_NORM_TYPES) and m.track_running_stats and not _is_frozen(m)
        ]
        self.gradient_size = sum(p.numel() for p in self.parameters)
        statistics_start = _align(self.gradient_size)
        statistics_size = sum(2 * _align(m.num_features) for m in self.batch_norms)
        scalars_start = statistics_start + statistics_size
        used = scalars_start + NUM_SCALARS
        self.batch_norm_slice = slice(statistics_start, scalars_start)
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
        self.totals: Tensor = torch.zeros(NUM_SCALARS + 1, device=device)
        self.reduced_gradients = self._gradient_views(self.reduced_bucket)
        self._finish = GraphedFunction(self._compute_totals, device, enabled=cuda_graphs)
        self._move_statistics_into_bucket()
        self.statistics = self.local_bucket[self.batch_norm_slice].clone()

    def detach(self) -> None:
        """Leave the model to another reducer."""

    def _gradient_views(self, bucket: Tensor) -> list[Tensor]:
        """Return one view into `bucket` per parameter, of its shape and strides."""
        views = []
        start = bucket.storage_offset()
        for p in self.parameters:
            views.append(bucket.as_strided(p.size(), p.stride(), start))
            start += p.numel()
        return views

    def _move_statistics_into_bucket(self) -> None:
        start = self.batch_norm_slice.start
        for module in self.batch_norms:
            for name in ("running_mean", "running_var"):
                statistics = getattr(module, name)
                # `.data` gives the view a version counter of its own. With a shared one, autograd
                # would take the update of one layer for a change of another layer's statistics.
                view = self.local_bucket[start : start + module.num_features].data
                setattr(module, name, view.copy_(statistics))
                start += _align(module.num_features)

    def _reset_statistics(self) -> None:
        """Set the model's statistics to those of the last step."""
        self.local_bucket[self.batch_norm_slice] = self.statistics

    def adopt_statistics(self) -> None:
        """Use the model's statistics, which were just loaded, as those of the last step."""
        self.statistics.copy_(self.local_bucket[self.batch_norm_slice])

    def reduce(
        self,
        num_micro_batches: int,
        compute: Callable[[int], None],
        *,
        preemption_pending: bool = False,
        stop_requested: bool = False,
    ) -> PendingTotals:
        """Compute this rank's micro-batches and sum the results over all micro-batches and ranks.

        Afterwards each parameter's `.grad` and the model's statistics are those of the whole global
        batch, on every rank.

        Args:
            num_micro_batches: number of micro-batches of the global batch.
            compute: called with the index of each micro-batch of this rank. Calls
                `fill_bucket`.
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
        if owned[rank]:
            self._set_flags(slots[0], preemption_pending, stop_requested)
        ordered_sum(slots, owned, self.reduced_bucket)
        return self._finish_step(num_micro_batches)

    def _set_flags(self, bucket: Tensor, preemption_pending: bool, stop_requested: bool) -> None:
        """Count this rank in the last two scalars of a vector `(L,)`."""
        for scalar, is_set in zip((2, 3), (preemption_pending, stop_requested), strict=True):
            if is_set:
                bucket[self.scalar_slice][scalar].fill_(1)

    def _finish_step(self, num_micro_batches: int) -> PendingTotals:
        """Hand the contents of `reduced_bucket` to the parameters and the model."""
        for p, view in zip(self.parameters, self.reduced_gradients, strict=True):
            p.grad = view
        self._finish(constants=(num_micro_batches,))
        return PendingTotals(self.totals)

    def _compute_totals(self, num_micro_batches: int) -> Tensor:
        """Compute the statistics and the totals from the reduced bucket."""
        torch.div(
            self.reduced_bucket[self.batch_norm_slice], num_micro_batches, out=self.statistics
        )
        self._reset_statistics()
        norm = torch.linalg.vector_norm(self.reduced_bucket[: self.gradient_size])
        return torch.cat([self.reduced_bucket[self.scalar_slice], norm[None]], out=self.totals)

    def _slots(self, count: int, num_micro_batches: int) -> Tensor:
        """Return uninitialised vectors `(count, L)` for this rank's partial sums.

        A rank that computes at most one micro-batch uses `local_bucket` itself.
        """
        if count == 1 and num_micro_batches <= self.world:
            return self.local_bucket[None]
        if len(self.scratch) < count:
            self.scratch = self.local_bucket.new_empty(count, len(self.local_bucket))
        return self.scratch[:count]

    @property
    def gradient_norm(self) -> Tensor:
        """Euclidean norm of the reduced gradient, `()`."""
        return self.totals[-1]

    def scale_gradient(self, factor: Tensor) -> None:
        """Multiply the reduced gradient by `factor`, `()`."""
        self.reduced_bucket[: self.gradient_size].mul_(factor)

    def _sum_block(self, indices: range, compute: Callable[[int], None]) -> Tensor:
        """Return the pairwise sum over an aligned block of micro-batches.

        At most log2 of their number of vectors are in memory at once.
        """
        sums: list[Tensor] = []
        for computed, i in enumerate(indices, 1):
            compute(i)
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

    @contextmanager
    def fill_bucket(self) -> Iterator[Tensor]:
        """Fill `local_bucket` from one micro-batch.

        The block calls `backward` on the micro-batch's part of the mean loss. It also fills the
        yielded vector `(2,)` with the sums of losses and of correct predictions.
        """
        yield self._begin_micro_batch()
        # One copy of all gradients. Adding each to its part of the bucket is slower on a GPU.
        gradients = [_flatten(p, p.grad) for p in self.parameters]
        torch.cat(gradients, out=self.local_bucket[: self.gradient_size])

    def _begin_micro_batch(self) -> Tensor:
        """Reset the state of a micro-batch; return its sums of losses and correct ones, `(2,)`."""
        self._reset_statistics()
        for p in self.parameters:
            p.grad = None
        scalars = self.local_bucket[self.scalar_slice]
        scalars.zero_()
        return scalars[:2]


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _align(size: int) -> int:
    """Return `size` rounded up to a multiple of `_ALIGNMENT`."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _flatten(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    """Return a gradient as a vector, in the order in which the parameter lies in memory."""
    if gradient is None:
        gradient = torch.zeros_like(parameter)
    is_channels_last = parameter.ndim == 4 and parameter.is_contiguous(
        memory_format=torch.channels_last
    )
    return (gradient.permute(0, 2, 3, 1) if is_channels_last else gradient).reshape(-1)
