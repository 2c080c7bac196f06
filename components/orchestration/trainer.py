"""One training on Ray Train, followed from the driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import ray.exceptions
from ray.train import (
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer

from components.errors import PeerLostError, UserError
from components.orchestration import placement_groups
from components.orchestration.event_channel import DriverChannel
from components.orchestration.events import DriverEvent, WorkersStarted
from components.orchestration.interrupts import collect_interrupts
from components.orchestration.job import (
    Refused,
    StoppedByRequest,
    TrainedModel,
    TrainingJob,
    WorkerResult,
)
from components.orchestration.process_group import PrepareWorker, torch_config
from components.orchestration.worker import WrapCallback, run_worker
from components.storage import join_uri, open_store
from components.training.events import TrainingWarning

OnEvent = Callable[[DriverEvent], None]
STOP_TIMEOUT_S = 20.0
"""Time after an interrupt for one step, one checkpoint and the messages between."""
RESIZE_INTERVAL_S = 10.0
_POLL_INTERVAL_S = 0.5


def _nothing() -> None:
    """The default of `prepare`. A function, because lambdas of this module cannot be pickled."""


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of a training that do not change its result.

    Args:
        max_failures: the number of restarts of the worker group, or of Ray Train's controller.
        start_timeout_s: the time in which the workers must start.
        prepare: called on every worker before it joins the process group.
        resize_interval_s: seconds between checks for room (elastic training).
        wrap_callback: wraps the callback of each rank, for tests.
    """

    max_failures: int
    start_timeout_s: float
    prepare: PrepareWorker = _nothing
    resize_interval_s: float = RESIZE_INTERVAL_S
    wrap_callback: WrapCallback | None = None


class Training:
    """A training on Ray Train: attempts that continue from the newest checkpoint.

    Creating it starts the first attempt on the connected cluster. Ray Train takes seconds to
    start its processes. The driver can use them before it calls `follow`; events wait until then.
    """

    def __init__(self, job: TrainingJob, options: TrainingOptions) -> None:
        self.job = job
        self.options = options
        self.attempt = Attempt(job, options)

    def follow(self, on_event: OnEvent) -> TrainedModel:
        """Pass each event to `on_event`, in order, and return the result of the training.

        After a failure some events come again.

        Raises:
            UserError: the user made a mistake that only a worker could see; the training failed
                more than `max_failures` times, or twice in the same way; the workers did not
                start, or gave no sign of life, in time.
            KeyboardInterrupt: SIGINT or SIGTERM arrived. The state is in a checkpoint.
        """
        for failures in range(self.options.max_failures + 1):
            try:
                result = self.attempt.follow(on_event)
            except ray.exceptions.RayActorError as error:
                if failures == self.options.max_failures:
                    raise UserError(
                        f"training failed: Ray Train's controller died {failures + 1} times: "
                        f"{error}"
                    ) from error
                on_event(
                    TrainingWarning(
                        "Ray Train's controller died; starting again from the newest checkpoint"
                    )
                )
                placement_groups.remove_own()
                self.attempt = Attempt(self.job, self.options)
                continue
            match result:
                case TrainedModel():
                    return result
                case StoppedByRequest():
                    raise KeyboardInterrupt
                case Refused(message):
                    raise UserError(message)
        raise AssertionError("unreachable")


class Attempt:
    """One run of Ray Train.

    Ray Train's blocking `fit` is on a thread, so that the main thread can follow the training
    and receive signals.
    """

    def __init__(self, job: TrainingJob, options: TrainingOptions) -> None:
        self.job = job
        self.options = options
        self.channel = DriverChannel()
        self.result: WorkerResult | None = None
        self.error: Exception | None = None
        self.workers = 0
        self.thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)
        self.thread.start()

    def follow(self, on_event: OnEvent) -> WorkerResult:
        """Pass events to `on_event` until the training ends, and return its result.

        Raises:
            UserError: it failed, or no event came for `start_timeout_s` (after the first one:
                `watchdog_s` and `start_timeout_s` together).
            KeyboardInterrupt: SIGINT or SIGTERM arrived.
            RayActorError: Ray Train's controller died.
        """
        try:
            self._follow(on_event)
        finally:
            self.channel.close()
        if isinstance(self.error, TrainingFailedError):
            reason = _first_cause(self.error)
            raise UserError(
                f"training failed, after {self.options.max_failures} restarts at most: {reason}"
                + self._describe_stacks()
            ) from self.error
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    def _follow(self, on_event: OnEvent) -> None:
        last_event = time.monotonic()
        timeout_s = self.options.start_timeout_s
        with collect_interrupts() as interrupts:
            while self.thread.is_alive():
                if self._pass_events(on_event, _POLL_INTERVAL_S):
                    last_event = time.monotonic()
                    timeout_s = self.job.watchdog_s + self.options.start_timeout_s
                if time.monotonic() - last_event > timeout_s:
                    raise UserError(self._describe_silence(timeout_s))
                if interrupts:
                    self._stop(on_event)
                    raise KeyboardInterrupt
            self._pass_events(on_event, 0)

    def _pass_events(self, on_event: OnEvent, timeout_s: float) -> bool:
        """Pass the events since the last call to `on_event`; return whether there were any."""
        try:
            events = self.channel.take(timeout_s)
        except ray.exceptions.RayActorError as error:
            # Not to be mistaken for the death of the controller, which goes on training.
            raise UserError(
                "the process that passes events from the workers to the driver died; what the "
                "workers had done is in the newest checkpoint, and the same command continues there"
            ) from error
        for event in events:
            if isinstance(event, WorkersStarted):
                self.workers = event.workers
            on_event(event)
        return bool(events)

    def _fit(self) -> None:
        # Ray Train's own record of a run. Kiln's checkpoints are what counts: a record that a
        # crash cut short would prevent the next start.
        record = open_store(self.job.storage, "ray", self.job.fingerprint)
        try:
            record.clear()
            self.result = self._trainer().fit().return_value
            record.clear()
        except SystemExit:
            pass  # the session was closed while Ray Train was waiting for resources
        except Exception as error:  # noqa: BLE001 (raised again on the thread that follows)
            self.error = error

    def _trainer(self) -> TorchTrainer:
        job = self.job
        gpu = job.device == "gpu"
        # The watchdog ends a rank that hangs. This timeout is for a rank whose node was lost: the
        # others wait for it in a collective call.
        collective_timeout_s = int(2 * job.watchdog_s) + 1
        resources = {"CPU": job.cpus_per_worker} | ({"GPU": 1} if gpu else {})
        return TorchTrainer(
            run_worker,
            train_loop_config={
                "job": job,
                "events": self.channel.actor,
                "wrap_callback": self.options.wrap_callback,
            },
            torch_config=torch_config(
                self.options.prepare, "nccl" if gpu else "gloo", collective_timeout_s
            ),
            scaling_config=ScalingConfig(
                num_workers=job.workers,
                use_gpu=gpu,
                resources_per_worker=resources,
                placement_strategy=job.placement,
                accelerator_type=job.accelerator if gpu else None,
                elastic_resize_monitor_interval_s=self.options.resize_interval_s,
            ),
            run_config=RunConfig(
                name=job.fingerprint,
                storage_path=join_uri(job.storage, "ray"),
                failure_config=FailureConfig(
                    max_failures=self.options.max_failures, controller_failure_limit=3
                ),
            ),
        )

    def _stop(self, on_event: OnEvent) -> None:
        """Ask the workers to save their state and end; wait up to `STOP_TIMEOUT_S`."""
        with suppress(ray.exceptions.RayError, UserError, KeyboardInterrupt):
            self.channel.request_stop()
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while self.thread.is_alive() and time.monotonic() < deadline:
                self._pass_events(on_event, 0.2)
        if isinstance(self.result, StoppedByRequest):
            text = f"stopped after step {self.result.step}; run it again to go on"
            on_event(TrainingWarning(text))

    def _describe_silence(self, seconds: float) -> str:
        if self.workers:
            return (
                f"no sign of life from the workers for {seconds:g} s (train.watchdog_s and "
                "train.start_timeout_s); what they had done is in the newest checkpoint, and the "
                "same command continues there"
            )
        return (
            f"the workers did not start within {seconds:g} s "
            f"({placement_groups.describe_usage()}); see "
            "what holds them with `ray status`, or raise train.start_timeout_s"
        )

    def _describe_stacks(self) -> str:
        paths = ", ".join(map(str, self.job.stacks_paths()))
        return f"; stacks of ranks that made no step: {paths}" if paths else ""


def _first_cause(error: TrainingFailedError) -> str:
    """Return the first error that is a rank's own.

    When one rank dies, the collective calls of the others fail, too.
    """
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        failures = sorted(error.worker_failures.items())
        own = [item for item in failures if not isinstance(item[1], PeerLostError)]
        rank, failure = (own or failures)[0]
        notes = " ".join(getattr(failure, "__notes__", []))
        return f"rank {rank}: {failure} {notes}".strip()
    return str(error)
