"""Part `ray_train`: the path through Ray Train, with one worker on the GPU and NCCL.

One training runs under Ray, in this process, and under Ray with its worker killed in the middle.
All three must give the same weights. Without a GPU, `--smoke` uses the CPU and gloo.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.gpu_run.parts import choose_device, parse_part_arguments
from benchmarks.gpu_run.results import Results
from components.data.format.shards import read_manifest, write_split
from components.data.loading.image_stores import open_image_store
from components.data.sources.idx import load
from components.models import weights
from components.orchestration.job import TrainingJob
from components.params import Checkpoint, Recipe
from components.paths import ROOT
from components.ray_session import resources
from components.ray_session.session import session
from components.records.splits import Channels
from components.records.training import Network
from components.training.callback import TrainerCallback
from components.training.config import LoopConfig
from components.training.events import Resumed, TrainingEvent, TrainingWarning
from components.training.loop import train

# Modules that import Ray are imported once the session has set up the environment.
if TYPE_CHECKING:
    from components.orchestration.events import DriverEvent

_RAW = ROOT / "data" / "raw" / "fashion-mnist"
_ROWS = (8000, 2000)
_SMOKE_ROWS = (400, 100)
"""Numbers of training and of validation images."""
_EPOCHS = 3
_STEPS_BETWEEN_CHECKPOINTS = 5
_START_TIMEOUT_S = 60.0
_REQUEST = resources.WorkerRequest(workers=1, cpus=1)
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


def main() -> None:
    out, smoke = parse_part_arguments()
    results = Results(out, "ray_train")
    if choose_device().type != "cuda" and not smoke:
        results.add("ray train", skipped="no GPU")
        return
    # Not below `out`, whose few files are copied back from a lent machine.
    folder = tempfile.TemporaryDirectory(prefix="kiln-ray-train-", ignore_cleanup_errors=True)
    with folder as name, results.attempt("all"):
        job = _make_job(Path(name), smoke)
        with _recorded_session(results):
            _run(results, job)


@contextmanager
def _recorded_session(results: Results) -> Iterator[None]:
    """Connect to a local Ray, and record the seconds until it has started and until it has ended.

    The end is recorded, too, because a Ray that does not end would hold the GPU.
    """
    start = time.perf_counter()
    with session() as where:
        results.add("session", where=where, seconds=_seconds_since(start))
        yield
        start = time.perf_counter()
    results.add("session's end", seconds=_seconds_since(start))


def _run(results: Results, job: TrainingJob) -> None:
    """Record the choice of the device, and the same training in three ways."""
    with results.attempt("train.device: auto"):
        _record_choice(results, job.device)
    digest = None
    with results.attempt("Ray Train"):
        digest = _train_on_ray(results, "Ray Train", job)
    with results.attempt("in this process"):
        _train_here(results, job, digest)
    with results.attempt("Ray Train, worker killed"):
        again = replace(job, storage=f"{job.storage}-killed")
        kill_at = _count_steps(job) // 2 + 2
        _train_on_ray(results, "Ray Train, worker killed", again, digest, kill_at)


def _make_job(folder: Path, smoke: bool) -> TrainingJob:
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
        workers=_REQUEST.workers,
        cpus_per_worker=_REQUEST.cpus,
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


def _count_steps(job: TrainingJob) -> int:
    """Return the number of steps of the whole training."""
    return job.recipe.epochs * -(-read_manifest(job.train_data).rows // job.global_batch)


def _record_choice(results: Results, expected: str) -> None:
    """Record the device and the number of workers that `train.device: auto` gives here."""
    import ray

    resources.check_local_capacity(_REQUEST, "auto")
    chosen = resources.choose_device(_REQUEST, "auto")
    results.add(
        "train.device: auto",
        ok=chosen == expected,
        device=chosen,
        workers=resources.choose_workers(_REQUEST, chosen, 8),
        resources={key: value for key, value in ray.cluster_resources().items() if ":" not in key},
        accelerators=[key for key in ray.cluster_resources() if key.startswith("accelerator_type")],
    )


@dataclass
class _EventLog:
    """The events of a training on Ray. Times are in seconds since the start."""

    start: float = field(default_factory=time.perf_counter)
    started_s: list[float] = field(default_factory=list)
    resumed_steps: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __call__(self, event: DriverEvent) -> None:
        from components.orchestration.events import WorkersStarted

        match event:
            case WorkersStarted():
                self.started_s.append(_seconds_since(self.start))
            case Resumed(step=step):
                self.resumed_steps.append(step)
            case TrainingWarning(text):
                self.warnings.append(text)


def _train_on_ray(
    results: Results,
    name: str,
    job: TrainingJob,
    expected: str | None = None,
    kill_at: int | None = None,
) -> str:
    """Train on Ray, record the training, and return the digest of its weights.

    `ok` is recorded where there is an `expected` digest. The worker is killed before step
    `kill_at`.
    """
    from components.orchestration.trainer import Training, TrainingOptions
    from components.ray_session.network_interface import use_cluster_interface

    facts = job.scratch() / name
    resources.choose_device(_REQUEST, job.device)  # raises at once if Ray finds no GPU
    options = TrainingOptions(
        max_failures=0 if kill_at is None else 2,
        start_timeout_s=_START_TIMEOUT_S,
        prepare=use_cluster_interface,
        wrap_callback=partial(_wrap_callback, job.device, kill_at, facts),
    )
    log = _EventLog()
    trained = Training(job, options).follow(log)
    digest = hashlib.sha256(trained.weights).hexdigest()
    verdict = {}
    if expected is not None:
        resumptions = 0 if kill_at is None else 1
        verdict["ok"] = digest == expected and len(log.resumed_steps) == resumptions
    results.add(
        name,
        **verdict,
        val_top1=trained.best.val_top1,
        seconds=_seconds_since(log.start),
        workers_started_s=log.started_s,
        steps=_count_steps(job),
        resumed_after_step=log.resumed_steps,
        precision=trained.precision,
        sha256=digest,
        worker=json.loads((facts / "worker.json").read_text()),
        warnings=log.warnings,
    )
    return digest


def _train_here(results: Results, job: TrainingJob, expected: str | None) -> None:
    """Train without Ray and without a process group, and record the training.

    `ok` is recorded where there is an `expected` digest.
    """
    start = time.perf_counter()
    device = choose_device()
    # As many as a worker has: the number of threads changes sums on the CPU.
    torch.set_num_threads(int(job.cpus_per_worker))
    train_images, val_images = (
        open_image_store(split, job.images, job.scratch() / "images", device, 1)
        for split in (job.train_data, job.val_data)
    )
    config = LoopConfig(
        network=job.network,
        train=train_images,
        val=val_images,
        recipe=job.recipe,
        global_batch=job.global_batch,
        micro_batches=job.micro_batches,
        seed=job.seed,
        device=device,
    )
    outcome = train(config, precision=job.precision)
    digest = weights.sha256(job.network, outcome.weights)
    assert outcome.best is not None
    results.add(
        "in this process",
        **({} if expected is None else {"ok": digest == expected}),
        val_top1=outcome.best.val_top1,
        seconds=_seconds_since(start),
        sha256=digest,
    )


def _wrap_callback(
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


class KillingCallback:
    """A callback in whose process SIGKILL comes before step `kill_at`, if no file `marker` exists.

    The file is made before, so that the training that goes on is not killed again.
    """

    def __init__(self, kill_at: int | None, marker: Path, inner: TrainerCallback) -> None:
        self.kill_at = kill_at
        self.marker = marker
        self.inner = inner

    def on_step_begin(self, step: int) -> None:
        self.inner.on_step_begin(step)
        if step == self.kill_at and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def save_checkpoint(self, state: dict[str, Any], wait: bool) -> None:
        self.inner.save_checkpoint(state, wait)

    def on_event(self, event: TrainingEvent) -> None:
        self.inner.on_event(event)

    def on_progress(self) -> None:
        self.inner.on_progress()

    def checkpoint_due(self, step: int) -> bool:
        return self.inner.checkpoint_due(step)

    def preemption_pending(self) -> bool:
        return self.inner.preemption_pending()

    def stop_requested(self) -> bool:
        return self.inner.stop_requested()


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 2)


if __name__ == "__main__":
    main()
