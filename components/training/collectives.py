"""What ranks do together. One process without a group is a world of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.errors import PeerLostError


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:  # gloo's and NCCL's errors, and torch's for want of a group
        raise PeerLostError(str(error)) from error


_had_group = False


def rank_and_world() -> tuple[int, int]:
    """This rank, and how many there are.

    Raises:
        PeerLostError: this process had a group. Ray Train destroys it in the ranks that are left when one is lost, and may
            end them half a minute later (`TorchConfig`'s backend, `on_shutdown`): they would go on alone meanwhile, and rank 0
            would save steps made of its own share of each batch.
    """
    global _had_group
    with _together():
        if dist.is_initialized():
            _had_group = True
        elif not _had_group:
            return 0, 1
        return dist.get_rank(), dist.get_world_size()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The element-wise sum, in place and on every rank. Its order is the backend's: exact for whole numbers only."""
    if rank_and_world()[1] > 1:
        with _together():
            dist.all_reduce(values)
    return values


def gather(mine: Any) -> list[Any]:
    """Small objects of all ranks, by rank."""
    world = rank_and_world()[1]
    if world == 1:
        return [mine]
    everyone: list[Any] = [None] * world
    with _together():
        dist.all_gather_object(everyone, mine)
    return everyone


def share_bytes(data: bytes | None, device: torch.device) -> bytes | None:
    """Rank 0's bytes, or its None, on every rank."""
    if rank_and_world()[1] == 1:
        return data
    with _together():
        size = torch.tensor([-1 if data is None else len(data)], device=device)
        dist.broadcast(size, 0)
        if size.item() < 0:
            return None
        buffer = torch.empty(int(size.item()), dtype=torch.uint8, device=device)
        if data is not None:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(buffer, 0)
    return bytes(buffer.cpu().numpy())


def pairwise_sum(parts: list[Tensor]) -> Tensor:
    """Sums neighbours, then neighbours of the sums, and so on; one that has no neighbour waits for the next round.

    Any aligned block of 2^k parts may be summed on its own beforehand without changing a bit. Overwrites `parts`.
    """
    while len(parts) > 1:
        parts = [parts[i].add_(parts[i + 1]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    return parts[0]


def ordered_sum(slots: Tensor, owned: list[int], out: Tensor) -> None:
    """Sums all ranks' slots, rank by rank and in each rank by slot, pairwise: an all-reduce whose order is fixed.

    `slots` is `(S, L)` on every rank, of which rank r has filled the first `owned[r]`; `out` is `(L,)`; the world divides L.
    Each rank sums one part of all vectors and hands it to the others: the traffic of a ring all-reduce (2 L in all), without
    its order of summation, which depends on the number of ranks.
    """
    world = rank_and_world()[1]
    if world == 1:
        total = pairwise_sum(list(slots[: owned[0]]))
        if total.data_ptr() != out.data_ptr():
            out.copy_(total)
        return
    count, length = slots.shape
    part = length // world
    outgoing = slots.view(count, world, part).transpose(0, 1).contiguous()
    incoming = torch.empty_like(outgoing)
    with _together():
        dist.all_to_all_single(incoming, outgoing)
        mine = pairwise_sum([incoming[r, s] for r in range(world) for s in range(owned[r])])
        dist.all_gather_into_tensor(out, mine)
