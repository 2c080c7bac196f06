"""Gradients that are summed over ranks while the backward pass still computes others.

The method of torch's DistributedDataParallel (arXiv:2006.15704). That class itself cannot be used:
it needs one backward pass per rank and step, and a short batch leaves some ranks without any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from components.params import Reduction
from components.training.collectives import (
    PendingSum,
    get_rank_and_world_size,
    start_sum,
    sum_over_ranks,
)
from components.training.reducer import Reducer, partition_micro_batches
from components.training.totals import PendingTotals

# Sizes as in DistributedDataParallel. The first bucket is small, so that its exchange starts early.
_FIRST_BUCKET_BYTES = 2**20
_BUCKET_BYTES = 25 * 2**20


class OverlappedReducer(Reducer):
    """Sums over ranks bucket by bucket, in an order that the backend chooses.

    The parameters are divided into buckets from the last to the first, which is about the order in
    which a backward pass computes their gradients. In a rank's last micro-batch of a step, a bucket
    is sent as soon as it is complete and all buckets before it have been sent.
    """

    can_be_captured = False  # hooks do not run when a CUDA graph is replayed

    def __init__(self, model: nn.Module, *, cuda_graphs: bool = True) -> None:
        super().__init__(model, cuda_graphs=cuda_graphs)
        self.buckets = _divide(self.parameters)
        self.bucket_of = {i: n for n, bucket in enumerate(self.buckets) for i in bucket}
        self.is_first = True
        self.is_last = False
        self.missing: list[int] = []
        self.pending: list[PendingSum] = []
        self.hooks = [
            parameter.register_post_accumulate_grad_hook(self._make_hook(index))
            for index, parameter in enumerate(self.parameters)
        ]

    def detach(self) -> None:
        """See `Reducer.detach`."""
        for hook in self.hooks:
            hook.remove()

    def _make_hook(self, index: int) -> Callable[[Tensor], None]:
        return lambda _: self._take_gradient(index)

    def reduce(
        self,
        num_micro_batches: int,
        compute: Callable[[int], None],
        *,
        preemption_pending: bool = False,
        stop_requested: bool = False,
    ) -> PendingTotals:
        """See `Reducer.reduce`."""
        rank, _ = get_rank_and_world_size()
        ranges, _ = partition_micro_batches(num_micro_batches, self.world)
        self.missing = [len(bucket) for bucket in self.buckets]
        self.pending = []
        self.reduced_bucket[self.gradient_size :].zero_()
        for i in ranges[rank]:
            self.is_first = i == ranges[rank][0]
            self.is_last = i == ranges[rank][-1]
            compute(i)
        if not ranges[rank]:
            self.reduced_bucket.zero_()
            self.missing = [0] * len(self.buckets)
            self._send_complete_buckets()
        self._set_flags(self.reduced_bucket, preemption_pending, stop_requested)
        sum_over_ranks(self.reduced_bucket[self.gradient_size :])
        for pending in self.pending:
            pending.wait()
        return self._finish_step(num_micro_batches)

    @contextmanager
    def fill_bucket(self) -> Iterator[Tensor]:
        """Add one micro-batch to `reduced_bucket`; see `Reducer.fill_bucket`."""
        self.without_gradient = set(range(len(self.parameters)))
        yield self._begin_micro_batch()
        for index in sorted(self.without_gradient):
            self._take_gradient(index)
        self.reduced_bucket[self.gradient_size :].add_(self.local_bucket[self.gradient_size :])

    @torch.no_grad()
    def _take_gradient(self, index: int) -> None:
        """Add the gradient of a parameter to `reduced_bucket`, and send buckets that are full."""
        self.without_gradient.discard(index)
        parameter = self.parameters[index]
        part = self.reduced_gradients[index]
        if self.is_first:
            part.zero_() if parameter.grad is None else part.copy_(parameter.grad)
        elif parameter.grad is not None:
            part.add_(parameter.grad)
        parameter.grad = None
        if self.is_last:
            self.missing[self.bucket_of[index]] -= 1
            self._send_complete_buckets()

    def _send_complete_buckets(self) -> None:
        """Start to sum the next buckets that are full, in the same order on all ranks."""
        while len(self.pending) < len(self.buckets) and not self.missing[len(self.pending)]:
            bucket = self.buckets[len(self.pending)]
            self.pending.append(start_sum(self.reduced_bucket[self._slice(bucket)]))

    def _slice(self, bucket: range) -> slice:
        """Return the part of the vector that belongs to the parameters `bucket`."""
        start = self.reduced_gradients[bucket[0]].storage_offset()
        last = self.reduced_gradients[bucket[-1]]
        return slice(start, last.storage_offset() + last.numel())


def build_reducer(model: nn.Module, reduction: Reduction, *, cuda_graphs: bool) -> Reducer:
    """Return the reducer of `train.reduction`. A single rank has nothing to overlap."""
    overlaps = reduction == "ddp" and get_rank_and_world_size()[1] > 1
    return (OverlappedReducer if overlaps else Reducer)(model, cuda_graphs=cuda_graphs)


def _divide(parameters: list[nn.Parameter]) -> list[range]:
    """Divide parameters into buckets of consecutive indices, from the last to the first."""
    buckets = []
    stop = len(parameters)
    limit = _FIRST_BUCKET_BYTES
    size = 0
    for index in range(len(parameters) - 1, -1, -1):
        size += parameters[index].numel() * parameters[index].element_size()
        if size >= limit or index == 0:
            buckets.append(range(index, stop))
            stop, size, limit = index, 0, _BUCKET_BYTES
    return buckets
