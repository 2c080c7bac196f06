"""Accelerate: a plain loop with `Accelerator.prepare`, two CPU ranks: `WORKLOAD RESULT SEED`."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from benchmarks.contenders.common import (
    EpochTimer,
    compute_loss,
    evaluate_top1,
    parse_arguments,
    write_result,
)


def main() -> None:
    workload, result = parse_arguments()
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == workload.processes, accelerator.state
    data = workload.load_dataset("train")
    bare = workload.build_model()
    # The schedule counts global steps; Accelerate would step a prepared one once per process.
    optimizer, schedule = workload.build_optimizer(bare)
    loader = DataLoader(data, batch_size=workload.global_batch // workload.processes, shuffle=True)
    model, optimizer, loader = accelerator.prepare(bare, optimizer, loader)
    torch.manual_seed(workload.seed + accelerator.process_index)
    timer = EpochTimer(len(data))
    for _ in range(workload.epochs):
        model.train()
        timer.start()
        for images, labels in loader:
            optimizer.zero_grad()
            accelerator.backward(compute_loss(model, images, labels))
            optimizer.step()
            schedule.step()
        timer.stop()
    if accelerator.is_main_process:
        top1 = evaluate_top1(bare, workload)
        write_result(result, {"images_per_s": timer.images_per_s(), "test_top1": top1})
    accelerator.end_training()


if __name__ == "__main__":
    main()
