"""Runs one training on Ray Train and follows it from the driver."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.exceptions
from ray import PlacementGroupID
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from components.errors import PeerLostError, UserError
from components.orchestration import job as entry
from components.orchestration.event_channel import make_mailbox, on_this_machine
from components.orchestration.job import Job
from components.orchestration.local_trainer import LocalTrainer
from components.orchestration.process_group import GlooConfig, Prepare, torch_config
from components.storage import join_uri, open_store

OnEvent = Callable[[dict[str, Any]], None]
# After a wish to stop: a step, a checkpoint and the way there and back.
_STOP_S = 20.0
_MONITOR_S = 10.0


def _nothing() -> None:
    """For workers that find one another as they are."""


def fit(
    job: Job,
    *,
    max_failures: int,
    start_timeout_s: float,
    on_event: OnEvent,
    prepare: Prepare = _nothing,
) -> dict[str, Any]:
    """Trains `job` on the connected cluster; returns what rank 0 returned (`worker.run`).

    Continues from the newest checkpoint of the same fingerprint, at first and after each failure. `on_event` is called with
    what the loop emits, in order; after a failure some of it comes again. Every worker calls `prepare` before it joins the
    others.

    Raises:
        UserError: the mistake is the user's (seen by a worker), training failed more than `max_failures` times or twice in
            the same way, or the workers could not be started or gave no sign of life in time.
        KeyboardInterrupt: somebody interrupted; the state is in a checkpoint.
    """
    for failure in range(max_failures + 1):
        attempt = Attempt(job, max_failures, on_event, prepare)
        try:
            returned = attempt.follow(job.watchdog_s + start_timeout_s, start_timeout_s)
        except ray.exceptions.RayActorError as error:
            # Ray Train's own controller died, and its workers with it.
            if failure == max_failures:
                raise UserError(f"training failed: Ray Train's controller died {failure + 1} times: {error}") from error
            on_event({"kind": "warning", "text": "Ray Train's controller died; starting again from the newest checkpoint"})
            _free_placement_groups()
            continue
        if "refused" in returned:
            raise UserError(returned["refused"])
        if "stopped" in returned:
            raise KeyboardInterrupt
        return returned
    raise AssertionError("unreachable")


class Attempt:
    """One run of Ray Train's controller, on a thread, so that the main one can watch it and receive signals."""

    def __init__(self, job: Job, max_failures: int, on_event: OnEvent, prepare: Prepare) -> None:
        self.job, self.max_failures, self.on_event, self.prepare = job, max_failures, on_event, prepare
        self.mailbox = make_mailbox()
        self.returned: dict[str, Any] = {}
        self.error: Exception | None = None
        self.workers = 0
        self.thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)

    def follow(self, silence_s: float, start_s: float) -> dict[str, Any]:
        """Hands events on until training has ended. No sign of life for `silence_s` (`start_s` before the first) ends it."""
        self.thread.start()
        heard, limit = time.monotonic(), start_s
        try:
            with _interruptions() as interruptions:
                while self.thread.is_alive():
                    if self._pump(0.5):
                        heard, limit = time.monotonic(), silence_s
                    if time.monotonic() - heard > limit:
                        raise UserError(self._silence(limit))
                    if interruptions:
                        self._stop()
                        raise KeyboardInterrupt
                self._pump(0)
        finally:
            self.mailbox.close()
        if isinstance(self.error, TrainingFailedError):
            text = f"training failed, after {self.max_failures} restarts at most: {_cause(self.error)}"
            raise UserError(text + self._stacks()) from self.error
        if self.error is not None:
            raise self.error
        return self.returned

    def _pump(self, wait_s: float) -> bool:
        events = self.mailbox.take(wait_s)
        for event in events:
            if event["kind"] == "started":
                self.workers = event["workers"]
            self.on_event(event)
        return bool(events)

    def _fit(self) -> None:
        job, gpu = self.job, self.job.device == "gpu"
        # Ray keeps its own record of a run in a folder of this name, and would read it back. Our checkpoints are what counts;
        # a record that a crash cut short would only stand in the way.
        records = open_store(job.storage, "ray", job.fingerprint)
        try:
            records.clear()
            self.returned = self._trainer(job, gpu).fit().return_value
            records.clear()
        except Exception as error:  # noqa: BLE001 (it belongs to the thread that follows)
            self.error = error

    def _trainer(self, job: Job, gpu: bool) -> DataParallelTrainer:
        whole = self._whole()
        # The watchdog comes first, with stacks; this bound is for what it does not see.
        timeout_s = int(2 * job.watchdog_s) + 1
        if gpu or whole:
            group = torch_config(self.prepare, "nccl" if gpu else "gloo", timeout_s)
        else:
            group = GlooConfig(self.prepare, timeout_s)
        return (DataParallelTrainer if whole else LocalTrainer)(
            entry.run,
            train_loop_config={"job": job, "mailbox": self.mailbox},
            backend_config=group,
            scaling_config=ScalingConfig(
                elastic_resize_monitor_interval_s=_MONITOR_S,
                num_workers=job.workers,
                use_gpu=gpu,
                resources_per_worker={"CPU": job.cpus_per_worker} | ({"GPU": 1} if gpu else {}),
                placement_strategy=job.placement,
                accelerator_type=job.accelerator if gpu else None,
            ),
            run_config=RunConfig(
                name=job.fingerprint,
                storage_path=join_uri(job.storage, "ray"),
                failure_config=FailureConfig(max_failures=self.max_failures, controller_failure_limit=3),
            ),
        )

    def _whole(self) -> bool:
        """Whether all of Ray Train is wanted: on a cluster, and where the number of workers may change."""
        return not on_this_machine() or not isinstance(self.job.workers, int)

    def _stop(self) -> None:
        """Asks for a checkpoint and an end, and waits a little for both."""
        try:
            self.mailbox.ask_to_stop()
            until = time.monotonic() + _STOP_S
            while self.thread.is_alive() and time.monotonic() < until:
                self._pump(0.2)
        except (ray.exceptions.RayError, KeyboardInterrupt):
            return  # it ends without
        if "stopped" in self.returned:
            self.on_event({"kind": "warning", "text": f"stopped after step {self.returned['stopped']}; run it again to go on"})

    def _silence(self, seconds: float) -> str:
        if not self.workers:
            have = ray.cluster_resources()
            return (
                f"the workers did not start within {seconds:g} s (the cluster has {have.get('CPU', 0):g} CPU and "
                f"{have.get('GPU', 0):g} GPU); see what holds them with `ray status`, or raise train.start_timeout_s"
            )
        return (
            f"no sign of life from the workers for {seconds:g} s (train.watchdog_s and train.start_timeout_s); what they had "
            "done is in the newest checkpoint, and the same command continues there"
        )

    def _stacks(self) -> str:
        """Where watchdogs left stacks on this machine."""
        found = [
            path
            for path in (self.job.scratch() / "stacks").glob(f"{self.job.fingerprint[:12]}-rank*.txt")
            if path.stat().st_size
        ]
        return f"; stacks of ranks that made no step: {', '.join(map(str, found))}" if found else ""


def _free_placement_groups() -> None:
    """What a dead controller held. On a cluster Ray Train's own cleaner sees to it; it asks the dashboard, which an embedded
    session does not have, where everything is ours."""
    if os.environ.get("RAY_ADDRESS"):
        return
    for name, group in placement_group_table().items():
        if group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that the first finds the loop between two events; the second ends it at once."""
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # Ray has put its own handlers in place by now. A polite end is the same for Ctrl-C and for a job's stop.
    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cause(error: TrainingFailedError) -> str:
    """The first error that is a rank's own: when one rank dies, the others fail for want of it."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        failures = sorted(error.worker_failures.items())
        own = [(rank, e) for rank, e in failures if not isinstance(e, PeerLostError)] or failures
        rank, failure = own[0]
        notes = " ".join(getattr(failure, "__notes__", []))
        return f"rank {rank}: {failure} {notes}".strip()
    return str(error)
