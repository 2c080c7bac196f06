"""Accelerate: `Accelerator.prepare` around a plain loop, two processes on the CPU under torchrun."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from benchmarks.contenders.common import Rate, arguments, loss_of, report, top1


def main() -> None:
    work, result = arguments()
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == work.processes, accelerator.state
    data = work.dataset("train")
    bare = work.model()
    # The schedule counts global steps; a prepared one would be stepped once per process.
    optimizer, schedule = work.optimiser(bare)
    loader = DataLoader(data, batch_size=work.global_batch // work.processes, shuffle=True)
    model, prepared, loader = accelerator.prepare(bare, optimizer, loader)
    torch.manual_seed(work.seed + accelerator.process_index)
    rate = Rate(len(data))
    for _ in range(work.epochs):
        model.train()
        rate.begin()
        for images, labels in loader:
            prepared.zero_grad()
            accelerator.backward(loss_of(model, images, labels))
            prepared.step()
            schedule.step()
        rate.end()
    if accelerator.is_main_process:
        report(result, {"images_per_s": rate.value(), "test_top1": top1(bare, work)})
    accelerator.end_training()


if __name__ == "__main__":
    main()
