"""Runs one training on Ray Train and follows it from the driver."""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.exceptions
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util.queue import Queue

from components.errors import UserError
from components.training import worker
from components.training.worker import Job

OnEvent = Callable[[dict[str, Any]], None]


def fit(job: Job, *, fingerprint: str, storage: Path, max_failures: int, on_event: OnEvent) -> dict[str, Any]:
    """Trains `job` on the connected cluster; returns what rank 0 returned (`worker.run`).

    `on_event` is called on a thread of the driver with what the loop emits, in order. After a worker's death the group
    starts again from the beginning, with the same result; its events then come again.

    Raises:
        UserError: the mistake is the user's (seen by a worker), or training failed more than `max_failures` times.
    """
    # Ray Train would silently take up a folder of this name. There are no checkpoints yet to resume from: start clean.
    shutil.rmtree(storage / fingerprint, ignore_errors=True)
    gpu = job.device == "gpu"
    with _events(on_event) as events:
        trainer = TorchTrainer(
            worker.run,
            train_loop_config={"job": job, "events": events},
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=job.workers,
                use_gpu=gpu,
                resources_per_worker={"CPU": job.cpus_per_worker, **({"GPU": 1} if gpu else {})},
            ),
            run_config=RunConfig(
                name=fingerprint,
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=max_failures, controller_failure_limit=3),
            ),
        )
        try:
            returned: dict[str, Any] = trainer.fit().return_value
        except TrainingFailedError as error:
            raise UserError(f"training failed, after {max_failures} restarts at most: {_cause(error)}") from error
        finally:
            shutil.rmtree(storage / fingerprint, ignore_errors=True)
    if "refused" in returned:
        raise UserError(returned["refused"])
    return returned


def _cause(error: TrainingFailedError) -> str:
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank, failure = next(iter(sorted(error.worker_failures.items())))
        return f"rank {rank}: {failure}"
    return str(error)


@contextmanager
def _events(on_event: OnEvent) -> Iterator[Queue]:
    """A queue from the workers to a thread here; on leaving, what is still in it is handled before the end."""
    events = Queue(actor_options={"num_cpus": 0})
    ended = threading.Event()

    def pump() -> None:
        while True:
            try:
                event = events.get(timeout=0.5)
            except queue.Empty:
                if ended.is_set():
                    return
                continue
            except ray.exceptions.RayError:
                return  # the session is gone, and what ended it is reported by fit
            on_event(event)

    thread = threading.Thread(target=pump, name="training-events", daemon=True)
    thread.start()
    try:
        yield events
    finally:
        ended.set()
        thread.join(timeout=30)
        events.shutdown(force=True)
