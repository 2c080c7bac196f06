"""Sums over ranks. One process without a group is a world of one."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank_and_world() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_ranks(values: Tensor) -> Tensor:
    """The element-wise sum, in place and on every rank."""
    if rank_and_world()[1] > 1:
        dist.all_reduce(values)
    return values


def average_buffers(model: nn.Module) -> None:
    """Replaces floating-point buffers (the running statistics of batch norm) by their mean over ranks.

    Each rank normalises by its own part of the batch; without this, what is validated and saved would be rank 0's view.
    """
    world = rank_and_world()[1]
    if world == 1:
        return
    buffers = [b for b in model.buffers() if b.is_floating_point()]
    if buffers:
        flat = sum_over_ranks(torch.cat([b.reshape(-1) for b in buffers])) / world
        for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))
