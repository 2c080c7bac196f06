"""Collective operations over the process group. A process without a group is a world of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.errors import PeerLostError

_had_group = False


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise the errors of a collective operation as `PeerLostError`."""
    try:
        yield
    # gloo and NCCL raise RuntimeError; torch raises ValueError when the group is gone.
    except (RuntimeError, ValueError) as error:
        raise PeerLostError(str(error)) from error


def get_rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of ranks.

    Raises:
        PeerLostError: this process had a group and has none now. Training alone, rank 0 would
            save steps computed from its own share of each batch. Ray Train's default backend
            destroys the group of the remaining ranks when one is lost (`on_shutdown` in
            `ray.train.torch.config`), and may end them only half a minute later.
    """
    global _had_group
    with _translate_errors():
        if dist.is_initialized():
            _had_group = True
        elif not _had_group:
            return 0, 1
        return dist.get_rank(), dist.get_world_size()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the element-wise sum over all ranks, computed in place on every rank.

    The backend chooses the order of summation: the result is exact for whole numbers only.
    """
    if get_rank_and_world_size()[1] > 1:
        with _translate_errors():
            dist.all_reduce(values)
    return values


class PendingSum:
    """A sum over ranks that is under way."""

    def __init__(self, work: dist.Work) -> None:
        self.work = work

    def wait(self) -> None:
        """Wait for the sum; on a GPU, make the current stream wait for it."""
        with _translate_errors():
            self.work.wait()


def start_sum(values: Tensor) -> PendingSum:
    """Start to sum `values` over all ranks, in place, in an order that the backend chooses."""
    with _translate_errors():
        return PendingSum(dist.all_reduce(values, async_op=True))


def gather_objects(value: Any) -> list[Any]:
    """Return the small picklable `value` of every rank, in the order of ranks, on every rank."""
    world = get_rank_and_world_size()[1]
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    with _translate_errors():
        dist.all_gather_object(values, value)
    return values


def broadcast_bytes(data: bytes | None, device: torch.device) -> bytes | None:
    """Return rank 0's `data`, which may be None, on every rank. The backend uses `device`."""
    if get_rank_and_world_size()[1] == 1:
        return data
    with _translate_errors():
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
    """Sum neighbours, then neighbours of the sums, and so on; an odd part waits for the next round.

    Any aligned block of 2^k parts may be summed beforehand without changing a bit. Overwrites
    `parts`.
    """
    while len(parts) > 1:
        parts = [
            parts[i].add_(parts[i + 1]) if i + 1 < len(parts) else parts[i]
            for i in range(0, len(parts), 2)
        ]
    return parts[0]


def ordered_sum(slots: Tensor, owned: list[int], out: Tensor) -> None:
    """Sum the slots of all ranks pairwise, by rank and then by slot: an all-reduce in fixed order.

    Each rank sums one part of all vectors and sends it to the others. The traffic is that of a
    ring all-reduce (2 L in all), whose order of summation would depend on the number of ranks.

    Args:
        slots: `(S, L)` on every rank. The number of ranks divides L.
        owned: number of slots that each rank has filled, by rank.
        out: `(L,)`, receives the sum.
    """
    world = get_rank_and_world_size()[1]
    if world == 1:
        total = pairwise_sum(list(slots[: owned[0]]))
        if total.data_ptr() != out.data_ptr():
            out.copy_(total)
        return
    count, length = slots.shape
    outgoing = slots.view(count, world, length // world).transpose(0, 1).contiguous()
    incoming = torch.empty_like(outgoing)
    with _translate_errors():
        dist.all_to_all_single(incoming, outgoing)
        own_part = pairwise_sum([incoming[r, s] for r in range(world) for s in range(owned[r])])
        dist.all_gather_into_tensor(out, own_part)
