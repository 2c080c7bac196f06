"""The callback of the training in the part `ray_train`. It runs in the worker."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import torch
import torch.distributed as dist

from components.training.callback import ForwardingCallback, TrainerCallback


def wrap_callback(
    device: str, kill_at: int | None, folder: Path, inner: TrainerCallback, rank: int
) -> TrainerCallback:
    """Write what the worker sees to `folder/worker.json`, and return a `KillingCallback`.

    With one worker the training itself needs no collective call. This one starts NCCL's threads,
    which are then there while CUDA graphs are captured.
    """
    ones = torch.ones(1, device="cuda" if device == "gpu" else "cpu")
    dist.all_reduce(ones)
    facts = {
        "backend": dist.get_backend(),
        "all_reduced": ones.item(),
        "rank": rank,
        "world_size": dist.get_world_size(),
        "device": str(ones.device),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "process": os.getpid(),
    }
    folder.mkdir(exist_ok=True)
    (folder / "worker.json").write_text(json.dumps(facts))
    return KillingCallback(kill_at, folder / "killed", inner)


class KillingCallback(ForwardingCallback):
    """A callback in whose process SIGKILL comes before step `kill_at`, if no file `marker` exists.

    The file is made before, so that the training that goes on is not killed again.
    """

    def __init__(self, kill_at: int | None, marker: Path, inner: TrainerCallback) -> None:
        super().__init__(inner)
        self.kill_at = kill_at
        self.marker = marker

    def on_step_begin(self, step: int) -> None:
        self.inner.on_step_begin(step)
        if step == self.kill_at and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
