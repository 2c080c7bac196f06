"""The training step by `lightning.Trainer`, timed by a callback."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import lightning
import torch.nn.functional as F
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor

from benchmarks.gpu_run.settings import free_settings
from benchmarks.gpu_run.turns import Schedule, Turns
from benchmarks.gpu_run.workload import MeanLoss, Workload, build_network, build_sgd
from components.training.precision import synchronize


class _Module(lightning.LightningModule):  # type: ignore[misc]
    """Trains the bare network by automatic optimisation."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.workload = workload
        self.model = build_network(workload)
        self.mean = MeanLoss(workload.device)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.model(images), labels)
        self.mean.add(loss)
        return loss

    def configure_optimizers(self) -> Any:
        return build_sgd(self.model, fused=True)


class _Batches:
    """Endless batches that are drawn and augmented on the device."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload

    def __iter__(self) -> Any:
        return (self.workload.batches.draw() for _ in itertools.count())


class _Timer(lightning.Callback):  # type: ignore[misc]
    """Times the turns of `schedule` after its warm-up, then stops the training."""

    def __init__(self, workload: Workload, schedule: Schedule, deadline: float) -> None:
        self.workload = workload
        self.schedule = schedule
        self.deadline = deadline
        self.turns = Turns(count=0)
        self.steps_left = schedule.warm_up_steps
        self.started = math.nan
        self.is_probe = False

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.steps_left -= 1
        if self.steps_left > 0:
            return
        self.turns.loss = module.mean.read()
        synchronize(self.workload.device)
        now = time.perf_counter()
        if math.isnan(self.started):  # the end of the warm-up
            self.is_probe = True
            self.steps_left = self.schedule.probed_steps
        else:
            seconds = now - self.started
            if self.is_probe:
                self.is_probe = False
                self.turns.count = self.schedule.count_steps(seconds)
            else:
                self.turns.seconds.append(seconds)
            self.steps_left = self.turns.count
        is_late = time.monotonic() > self.deadline and self.turns.seconds
        trainer.should_stop = len(self.turns.seconds) == self.schedule.rounds or bool(is_late)
        self.started = time.perf_counter()


def measure_lightning(workload: Workload, schedule: Schedule, deadline: float) -> Turns:
    """Train with Lightning for some turns; stop after the first that ends after `deadline`."""
    timer = _Timer(workload, schedule, deadline)
    with free_settings(workload.device):
        trainer = lightning.Trainer(
            accelerator="gpu" if workload.device.type == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if workload.precision == "bf16" else "32-true",
            max_epochs=-1,
            benchmark=True,
            # Otherwise Lightning looks for a cluster, and starts MPI where mpi4py is installed.
            plugins=[LightningEnvironment()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[timer],
        )
        trainer.fit(_Module(workload), train_dataloaders=_Batches(workload))
    return timer.turns
