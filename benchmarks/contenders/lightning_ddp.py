"""Lightning: its Trainer with DDP over gloo, its own launcher."""

from __future__ import annotations

import os
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.contenders.common import Rate, Work, arguments, loss_of, report, top1


class Module(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self, work: Work, rate: Rate) -> None:
        super().__init__()
        self.work, self.rate, self.model = work, rate, work.model()

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return loss_of(self.model, *batch)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer, schedule = self.work.optimiser(self.model)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        torch.manual_seed(self.work.seed + self.global_rank)

    def on_train_epoch_start(self) -> None:
        self.rate.begin()

    def on_train_epoch_end(self) -> None:
        self.rate.end()


def main() -> None:
    work, result = arguments()
    torch.set_num_threads(1)
    data = work.dataset("train")
    rate = Rate(len(data))
    module = Module(work, rate)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=work.processes, strategy="ddp", max_epochs=work.epochs, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=work.global_batch // work.processes, shuffle=True))
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        report(result, {"images_per_s": rate.value(), "test_top1": top1(module.model, work)})


if __name__ == "__main__":
    main()
