"""Gradients of one global batch, the same to the bit however many ranks compute them.

A global batch is cut into a fixed number of micro-batches. Each gives one vector: the gradient of its part of the mean loss,
the running statistics of batch norm as it would leave them, and its sums. Vectors are added in one fixed, pairwise order
over the micro-batches, not over the ranks. What a step does thus depends on the micro-batches alone, and ranks may come and
go. Batch norm normalises over a micro-batch ("ghost" batch norm, arXiv:1705.08741).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from components.training.collectives import ordered_sum, rank_and_world

# Sums that travel with the gradient: loss, correct predictions, wishes for a checkpoint, wishes to stop.
_TAIL = 4


@dataclass(frozen=True)
class Totals:
    """Of one global batch, over all micro-batches; the wishes count ranks."""

    loss: float
    correct: int
    save: bool
    stop: bool
    gradient_norm: float


def deal(leaves: int, world: int) -> tuple[list[range], int]:
    """Which micro-batches each rank computes, in order, and the largest 2^k by which all these ranges are aligned."""
    bounds = [leaves * rank // world for rank in range(world + 1)]
    inner = [b for b in bounds[1:-1] if b]
    block = min((b & -b for b in inner), default=1 << leaves.bit_length())
    return [range(a, b) for a, b in itertools.pairwise(bounds)], block


class Reducer:
    """Holds the gradients and the batch-norm statistics of `model` in flat vectors and reduces them.

    After `reduce`, parameters' `.grad` and the statistics in the model are those of the whole global batch, on every rank.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self.gradients = sum(p.numel() for p in self.parameters)
        statistics = [s for m in self.norms for s in (m.running_mean, m.running_var) if s is not None]
        used = self.gradients + sum(s.numel() for s in statistics) + _TAIL
        self.world = rank_and_world()[1]
        device = self.parameters[0].device
        length = -(-used // self.world) * self.world
        self.leaf: Tensor = torch.zeros(length, device=device)
        # A rank alone has nobody to wait for: its sum can stand where the next one will be made.
        self.total: Tensor = self.leaf if self.world == 1 else torch.zeros(length, device=device)
        self.room: Tensor = self.leaf.new_empty(0, len(self.leaf))
        self.middle, self.tail = slice(self.gradients, used - _TAIL), slice(used - _TAIL, used)
        self.views = [self._views(vector) for vector in (self.leaf, self.total)]
        self.statistics = torch.cat([s.reshape(-1) for s in statistics]) if statistics else torch.empty(0, device=device)
        start = self.gradients
        for module in self.norms:  # from now on they live in the vector that is sent
            for name in ("running_mean", "running_var"):
                size = getattr(module, name).numel()
                # `.data`: a version counter of its own, or autograd takes one layer's update for a change of another's.
                module._buffers[name] = self.leaf[start : start + size].data
                start += size
        self.load()

    def _views(self, vector: Tensor) -> list[Tensor]:
        views, start = [], 0
        for p in self.parameters:
            views.append(vector.as_strided(p.size(), p.stride(), vector.storage_offset() + start))
            start += p.numel()
        return views

    def load(self) -> None:
        """Takes over statistics that were loaded into the model, or puts those of the last step back into it."""
        self.leaf[self.middle] = self.statistics

    def adopt(self) -> None:
        """The model's statistics, just loaded, are those of the last step."""
        self.statistics.copy_(self.leaf[self.middle])

    def reduce(self, leaves: int, compute: Callable[[int], Tensor], *, save: bool = False, stop: bool = False) -> Totals:
        """Calls `compute(i)` for this rank's micro-batches of the batch's `leaves`, and adds everything up.

        `compute` calls `backward` on its part of the loss and returns the sums of losses and of correct predictions, `(2,)`.
        """
        rank, _ = rank_and_world()
        shares, block = deal(leaves, self.world)
        owned = [-(-len(share) // block) for share in shares]
        starts = list(shares[rank][::block])
        slots = self._slots(max(owned), leaves)
        for slot, start in zip(slots, starts, strict=False):
            block_sum = self._block(range(start, min(start + block, shares[rank].stop)), compute)
            if slot.data_ptr() != block_sum.data_ptr():
                slot.copy_(block_sum)
        wishes = torch.tensor([float(save), float(stop)], device=slots.device)
        if owned[rank]:
            slots[0, self.tail][2:] = wishes
        ordered_sum(slots, owned, self.total)
        for p, view in zip(self.parameters, self.views[1], strict=True):
            p.grad = view
        torch.div(self.total[self.middle], leaves, out=self.statistics)
        self.load()
        gradient = self.total[: self.gradients]
        norm = torch.linalg.vector_norm(gradient)
        loss, correct, saves, stops, size = torch.cat([self.total[self.tail], norm[None]]).tolist()
        return Totals(loss, int(correct), saves > 0, stops > 0, size)

    def _slots(self, count: int, leaves: int) -> Tensor:
        """Room for this rank's sums, `(count, L)`: the vector itself if it is the only one."""
        if count == 1 and leaves <= self.world:
            return self.leaf[None]
        if len(self.room) < count:
            self.room = self.leaf.new_empty(count, len(self.leaf))
        return self.room[:count]

    def scale(self, factor: float) -> None:
        """Multiplies the reduced gradient."""
        self.total[: self.gradients].mul_(factor)

    def _block(self, leaves: range, compute: Callable[[int], Tensor]) -> Tensor:
        """The pairwise sum over an aligned block, with no more than log2 of its vectors in memory."""
        parts: list[Tensor] = []
        for done, i in enumerate(leaves, 1):
            self._compute(i, compute)
            if len(leaves) == 1:
                return self.leaf
            parts.append(self.leaf.clone())
            while done % 2 == 0:
                right, done = parts.pop(), done // 2
                parts[-1].add_(right)
        while len(parts) > 1:
            right = parts.pop()
            parts[-1].add_(right)
        return parts[0]

    def _compute(self, i: int, compute: Callable[[int], Tensor]) -> None:
        self.leaf[: self.gradients].zero_()
        self.load()
        for p, view in zip(self.parameters, self.views[0], strict=True):
            p.grad = view
        self.leaf[self.tail][:2] = compute(i)
        self.leaf[self.tail][2:] = 0
