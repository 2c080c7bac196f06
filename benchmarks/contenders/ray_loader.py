"""Ray's Fashion-MNIST example with the benchmark's workload: `WORKLOAD RESULT SEED`.

Network, batch, recipe and data are those of the other contenders. The structure is the example's:
`prepare_data_loader`, `prepare_model`, `report` after each epoch, defaults of Ray Train.
"""

from __future__ import annotations

from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch.utils.data import DataLoader

from benchmarks.contenders.common import (
    EpochTimer,
    Workload,
    evaluate_top1,
    parse_arguments,
    train_epoch,
    write_result,
)


def train(config: dict[str, Any]) -> dict[str, float]:
    """Train in one Ray worker. Rank 0 returns the metrics."""
    workload: Workload = config["workload"]
    rank = ray.train.get_context().get_world_rank()
    torch.set_num_threads(1)
    data = workload.load_dataset("train")
    loader = ray.train.torch.prepare_data_loader(
        DataLoader(data, batch_size=workload.global_batch // workload.processes, shuffle=True)
    )
    bare = workload.build_model()
    model = ray.train.torch.prepare_model(bare)
    optimizer, schedule = workload.build_optimizer(bare)
    torch.manual_seed(workload.seed + rank)
    timer = EpochTimer(len(data))
    for epoch in range(workload.epochs):
        loader.sampler.set_epoch(epoch)
        model.train()
        timer.start()
        train_epoch(model, loader, optimizer, schedule)
        timer.stop()
        ray.train.report(metrics={"epoch": epoch})
    if rank != 0:
        return {}
    return {"images_per_s": timer.images_per_s(), "test_top1": evaluate_top1(bare, workload)}


def main() -> None:
    workload, result = parse_arguments()
    trainer = TorchTrainer(
        train,
        train_loop_config={"workload": workload},
        scaling_config=ScalingConfig(num_workers=workload.processes),
        run_config=RunConfig(storage_path=str(result.parent / "ray")),
    )
    write_result(result, trainer.fit().return_value)


if __name__ == "__main__":
    main()
