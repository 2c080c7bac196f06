"""Part `ray_train`: the path through Ray Train, with one worker on the GPU and NCCL.

One training runs under Ray, in this process, and under Ray with its worker killed in the middle.
All three must give the same weights. Without a GPU, `--smoke` uses the CPU and gloo.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.gpu_run.parts import choose_device, parse_part_arguments
from benchmarks.gpu_run.ray_job import REQUEST, count_steps, make_job
from benchmarks.gpu_run.ray_worker import wrap_callback
from benchmarks.gpu_run.results import Results
from components.data.loading.image_stores import open_image_store
from components.models import weights
from components.orchestration.job import TrainingJob
from components.ray_session import resources
from components.ray_session.session import session
from components.training.callback import NullCallback
from components.training.events import Resumed, TrainingWarning
from components.training.loop import train

# Modules that import Ray are imported once the session has set up the environment.
if TYPE_CHECKING:
    from components.orchestration.events import DriverEvent

_START_TIMEOUT_S = 60.0


def main() -> None:
    out, smoke = parse_part_arguments()
    results = Results(out, "ray_train")
    if choose_device().type != "cuda" and not smoke:
        results.add("ray train", skipped="no GPU")
        return
    # Not below `out`, whose few files are copied back from a lent machine.
    folder = tempfile.TemporaryDirectory(prefix="kiln-ray-train-", ignore_cleanup_errors=True)
    with folder as name, results.attempt("all"):
        job = make_job(Path(name), smoke)
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
        kill_at = count_steps(job) // 2 + 2
        _train_on_ray(results, "Ray Train, worker killed", again, digest, kill_at)


def _record_choice(results: Results, expected: str) -> None:
    """Record the device and the number of workers that `train.device: auto` gives here."""
    import ray

    resources.check_local_capacity(REQUEST, "auto")
    chosen = resources.choose_device(REQUEST, "auto")
    results.add(
        "train.device: auto",
        ok=chosen == expected,
        device=chosen,
        workers=resources.choose_workers(REQUEST, chosen, 8),
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
    resources.choose_device(REQUEST, job.device)  # raises at once if Ray finds no GPU
    options = TrainingOptions(
        max_failures=0 if kill_at is None else 2,
        start_timeout_s=_START_TIMEOUT_S,
        prepare=use_cluster_interface,
        wrap_callback=partial(wrap_callback, job.device, kill_at, facts),
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
        steps=count_steps(job),
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
    from components.orchestration.worker import make_loop_config

    start = time.perf_counter()
    device = choose_device()
    # As many as a worker has: the number of threads changes sums on the CPU.
    torch.set_num_threads(int(job.cpus_per_worker))
    train_images, val_images = (
        open_image_store(split, job.images, job.scratch() / "images", device, 1)
        for split in (job.train_data, job.val_data)
    )
    config = make_loop_config(job, train_images, val_images, device, NullCallback())
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


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 2)


if __name__ == "__main__":
    main()
