"""The training of the part `ray_train`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_run.parts import choose_device
from components.data.format.shards import read_manifest, write_split
from components.data.sources.idx import load
from components.orchestration.job import TrainingJob
from components.params import Checkpoint, Recipe
from components.paths import ROOT
from components.ray_session import resources
from components.records.splits import Channels
from components.records.training import Network

_RAW = ROOT / "data" / "raw" / "fashion-mnist"
_ROWS = (8000, 2000)
_SMOKE_ROWS = (400, 100)
"""Numbers of training and of validation images."""
_EPOCHS = 3
_STEPS_BETWEEN_CHECKPOINTS = 5
REQUEST = resources.WorkerRequest(workers=1, cpus=1)
_RECIPE: dict[str, Any] = {
    "architecture": "resnet20",
    "epochs": _EPOCHS,
    "mirror": True,
    "learning_rate": 0.3,
    "muon": {"learning_rate": 0.06},
    "weight_decay": 1e-3,
    "warmup_epochs": 0.5,
    "label_smoothing": 0.05,
    "ema_decay": 0.9,
    "augment": {"flip": 0.5, "crop_padding": 2, "erase": 8},
}


def make_job(folder: Path, smoke: bool) -> TrainingJob:
    """Write both splits below `folder`, and describe a training of one worker."""
    images, _, classes = load(_RAW)
    num_train, num_val = _SMOKE_ROWS if smoke else _ROWS
    rows = np.arange(num_train + num_val)
    train_images, val_images = images.take(rows[:num_train]), images.take(rows[num_train:])
    pixels = train_images.pixels.astype(np.float32)
    channels = Channels(mean=[float(pixels.mean())], std=[float(pixels.std())])
    write_split(folder / "train", "train", train_images, classes, 1, channels)
    write_split(folder / "val", "val", val_images, classes, 1, channels)
    recipe = Recipe.model_validate(_RECIPE | {"width": 4 if smoke else 16})
    gpu = choose_device().type == "cuda"
    (folder / "storage").mkdir()
    return TrainingJob(
        network=Network(
            architecture=recipe.architecture,
            width=recipe.width,
            shape=images.pixels.shape[1:],
            classes=classes,
            channels=channels,
            mirror=recipe.mirror,
            stem="cifar",
        ),
        recipe=recipe,
        train_data=folder / "train",
        val_data=folder / "val",
        workers=REQUEST.workers,
        cpus_per_worker=REQUEST.cpus,
        device="gpu" if gpu else "cpu",
        global_batch=64 if smoke else 256,
        micro_batches=2,
        seed=5,
        precision="bf16" if gpu else "fp32",
        fingerprint="f" * 64,
        storage=str(folder / "storage"),
        checkpoint=Checkpoint(every_seconds=None, every_steps=_STEPS_BETWEEN_CHECKPOINTS, keep=2),
        watchdog_s=30,
        images="memory",
        locate=Path,
        scratch=partial(Path, folder),
    )


def count_steps(job: TrainingJob) -> int:
    """Return the number of steps of the whole training."""
    return job.recipe.epochs * -(-read_manifest(job.train_data).rows // job.global_batch)
