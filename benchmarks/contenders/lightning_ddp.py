"""Lightning: its Trainer with DDP over gloo: `WORKLOAD RESULT SEED`.

Lightning starts the second rank itself.
"""

from __future__ import annotations

import os
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.contenders.common import (
    EpochTimer,
    Workload,
    compute_loss,
    evaluate_top1,
    parse_arguments,
    write_result,
)


class Module(lightning.LightningModule):  # type: ignore[misc]
    """The workload's network, loss and optimizer. The hooks measure the training steps."""

    def __init__(self, workload: Workload, timer: EpochTimer) -> None:
        super().__init__()
        self.workload = workload
        self.timer = timer
        self.model = workload.build_model()

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return compute_loss(self.model, *batch)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer, schedule = self.workload.build_optimizer(self.model)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        torch.manual_seed(self.workload.seed + self.global_rank)

    def on_train_epoch_start(self) -> None:
        self.timer.start()

    def on_train_epoch_end(self) -> None:
        self.timer.stop()


def main() -> None:
    workload, result = parse_arguments()
    torch.set_num_threads(1)
    data = workload.load_dataset("train")
    timer = EpochTimer(len(data))
    module = Module(workload, timer)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=workload.processes,
        strategy="ddp",
        max_epochs=workload.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(data, batch_size=workload.global_batch // workload.processes, shuffle=True)
    trainer.fit(module, loader)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        top1 = evaluate_top1(module.model, workload)
        write_result(result, {"images_per_s": timer.images_per_s(), "test_top1": top1})


if __name__ == "__main__":
    main()
