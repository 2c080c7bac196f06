"""Plain torch under torchrun: DistributedDataParallel, DataLoader, DistributedSampler, fp32.

With `tuned` as the fourth word what a careful author would write by hand instead: resident uint8 data, channels-last, bf16.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from benchmarks.contenders.common import Rate, Work, arguments, flipped, plain_epoch, report, top1
from components.data.format.shards import read_split


def main() -> None:
    work, result = arguments()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    values = _tuned(work) if "tuned" in sys.argv[4:] else _plain(work)
    if dist.get_rank() == 0:
        report(result, values)
    dist.destroy_process_group()


def _plain(work: Work) -> dict[str, float]:
    data = work.dataset("train")
    sampler: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(data, seed=work.seed)
    loader = DataLoader(data, batch_size=work.global_batch // dist.get_world_size(), sampler=sampler)
    bare = work.model()
    model = DistributedDataParallel(bare)
    optimizer, schedule = work.optimiser(bare)
    torch.manual_seed(work.seed + dist.get_rank())
    rate = Rate(len(data))
    for epoch in range(work.epochs):
        sampler.set_epoch(epoch)
        model.train()
        rate.begin()
        plain_epoch(model, loader, optimizer, schedule)
        rate.end()
    return {"images_per_s": rate.value(), "test_top1": top1(bare, work)}


def _tuned(work: Work) -> dict[str, float]:
    images, _ = read_split(Path(work.data) / "train")
    pixels, labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
    channels = work.network().channels
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (channels.mean, channels.std))
    bare = work.model().to(memory_format=torch.channels_last)
    model = DistributedDataParallel(bare)
    optimizer, schedule = work.optimiser(bare)
    torch.manual_seed(work.seed + dist.get_rank())
    rate = Rate(len(labels))
    for epoch in range(work.epochs):
        model.train()
        rate.begin()
        for rows in _mine(len(labels), work, epoch):
            batch = (pixels[rows].permute(0, 3, 1, 2).float() - mean) / std
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(flipped(batch).contiguous(memory_format=torch.channels_last))
            F.cross_entropy(logits.float(), labels[rows]).backward()
            optimizer.step()
            schedule.step()
        rate.end()
    return {"images_per_s": rate.value(), "test_top1": top1(bare, work)}


def _mine(rows: int, work: Work, epoch: int) -> Iterator[Tensor]:
    """This rank's part of each global batch."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(work.seed * 1000 + epoch))
    for batch in order.split(work.global_batch):
        yield batch.tensor_split(dist.get_world_size())[dist.get_rank()]


if __name__ == "__main__":
    main()
