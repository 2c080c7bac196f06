"""Ray's Fashion-MNIST example, repaired: the same loader, our network, batch and recipe.

What the example does is kept: `prepare_data_loader`, `prepare_model`, `report` after each epoch, defaults of Ray Train.
"""

from __future__ import annotations

from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch.utils.data import DataLoader

from benchmarks.contenders.common import Rate, Work, arguments, plain_epoch, report, top1


def train(config: dict[str, Any]) -> dict[str, float]:
    work: Work = config["work"]
    rank = ray.train.get_context().get_world_rank()
    torch.set_num_threads(1)
    data = work.dataset("train")
    loader = ray.train.torch.prepare_data_loader(DataLoader(data, batch_size=work.global_batch // work.processes, shuffle=True))
    bare = work.model()
    model = ray.train.torch.prepare_model(bare)
    optimizer, schedule = work.optimiser(bare)
    torch.manual_seed(work.seed + rank)
    rate = Rate(len(data))
    for epoch in range(work.epochs):
        loader.sampler.set_epoch(epoch)
        model.train()
        rate.begin()
        plain_epoch(model, loader, optimizer, schedule)
        rate.end()
        ray.train.report(metrics={"epoch": epoch})
    return {"images_per_s": rate.value(), "test_top1": top1(bare, work)} if rank == 0 else {}


def main() -> None:
    work, result = arguments()
    trainer = TorchTrainer(
        train,
        train_loop_config={"work": work},
        scaling_config=ScalingConfig(num_workers=work.processes),
        run_config=RunConfig(storage_path=str(result.parent / "ray")),
    )
    report(result, trainer.fit().return_value)


if __name__ == "__main__":
    main()
