"""Plain torch in two ranks: DDP, DataLoader, DistributedSampler, fp32: `WORKLOAD RESULT SEED`.

A fourth argument `tuned` selects a loop optimised by hand instead: resident uint8 data,
channels-last, bf16.
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

from benchmarks.contenders.common import (
    EpochTimer,
    Workload,
    evaluate_top1,
    flip_randomly,
    parse_arguments,
    train_epoch,
    write_result,
)
from components.data.format.shards import read_split


def main() -> None:
    workload, result = parse_arguments()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    train = _train_tuned if "tuned" in sys.argv[4:] else _train_plain
    values = train(workload)
    if dist.get_rank() == 0:
        write_result(result, values)
    dist.destroy_process_group()


def _train_plain(workload: Workload) -> dict[str, float]:
    data = workload.load_dataset("train")
    sampler: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(data, seed=workload.seed)
    batch = workload.global_batch // dist.get_world_size()
    loader = DataLoader(data, batch_size=batch, sampler=sampler)
    bare = workload.build_model()
    model = DistributedDataParallel(bare)
    optimizer, schedule = workload.build_optimizer(bare)
    torch.manual_seed(workload.seed + dist.get_rank())
    timer = EpochTimer(len(data))
    for epoch in range(workload.epochs):
        sampler.set_epoch(epoch)
        model.train()
        timer.start()
        train_epoch(model, loader, optimizer, schedule)
        timer.stop()
    return {"images_per_s": timer.images_per_s(), "test_top1": evaluate_top1(bare, workload)}


def _train_tuned(workload: Workload) -> dict[str, float]:
    images, _ = read_split(Path(workload.data) / "train")
    pixels = torch.from_numpy(images.pixels)
    labels = torch.from_numpy(images.labels)
    channels = workload.network.channels
    mean = torch.tensor(channels.mean).view(1, -1, 1, 1)
    std = torch.tensor(channels.std).view(1, -1, 1, 1)
    bare = workload.build_model().to(memory_format=torch.channels_last)
    model = DistributedDataParallel(bare)
    optimizer, schedule = workload.build_optimizer(bare)
    torch.manual_seed(workload.seed + dist.get_rank())
    timer = EpochTimer(len(labels))
    for epoch in range(workload.epochs):
        model.train()
        timer.start()
        for rows in _local_batches(len(labels), workload, epoch):
            batch = (pixels[rows].permute(0, 3, 1, 2).float() - mean) / std
            flipped = flip_randomly(batch).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(flipped)
            F.cross_entropy(logits.float(), labels[rows]).backward()
            optimizer.step()
            schedule.step()
        timer.stop()
    return {"images_per_s": timer.images_per_s(), "test_top1": evaluate_top1(bare, workload)}


def _local_batches(rows: int, workload: Workload, epoch: int) -> Iterator[Tensor]:
    """Yield this rank's rows of each global batch."""
    generator = torch.Generator().manual_seed(workload.seed * 1000 + epoch)
    for batch in torch.randperm(rows, generator=generator).split(workload.global_batch):
        yield batch.tensor_split(dist.get_world_size())[dist.get_rank()]


if __name__ == "__main__":
    main()
