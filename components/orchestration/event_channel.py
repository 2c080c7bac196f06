"""The channel between the workers of a training and its driver.

Events travel to the driver. The request to stop, and the failures of earlier worker groups,
travel to the workers. An actor on the driver's node holds all of it, so that it outlives worker
groups and the loss of other nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from components.orchestration.events import DriverEvent, Heartbeat

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

HEARTBEAT_INTERVAL_S = 2.0
_MAX_EQUAL_FAILURES = 2
"""A failure that ended this many worker groups in the same way will end the next one, too."""


@dataclass(frozen=True)
class Failure:
    """An error of one rank. `signature` is its text without numbers and addresses."""

    signature: str
    text: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Describe an exception, with the notes that were added to it."""
        text = f"{type(error).__name__}: {error}"
        notes = " ".join(getattr(error, "__notes__", []))
        signature = re.sub(r"0x[0-9a-f]+|\d+", "#", text) + notes
        return cls(signature, f"{text} {notes}".strip())


def repeated_failure(failures: list[Failure]) -> str | None:
    """Return an error message when one failure has happened too often, else None."""
    counts = Counter(failure.signature for failure in failures)
    for failure in failures:
        if counts[failure.signature] >= _MAX_EQUAL_FAILURES:
            return f"training failed the same way {_MAX_EQUAL_FAILURES} times: {failure.text}"
    return None


class EventActor:
    """State of the channel. Its methods run on one event loop, so no locks are needed."""

    def __init__(self) -> None:
        self.events: list[DriverEvent] = []
        self.arrived = asyncio.Event()
        self.stop_requested = False
        self.failures: list[Failure] = []

    async def put(self, event: DriverEvent) -> bool:
        """Append an event; return whether the driver has requested a stop."""
        self.events.append(event)
        self.arrived.set()
        return self.stop_requested

    async def take(self, timeout_s: float) -> list[DriverEvent]:
        """Return the events since the last call; wait up to `timeout_s` for the first one."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.arrived.wait(), timeout_s)
        self.arrived.clear()
        events = self.events
        self.events = []
        return events

    async def request_stop(self) -> None:
        """Ask the workers to save their state and end."""
        self.stop_requested = True

    async def add_failure(self, failure: Failure) -> None:
        """Record the error that ended a worker group."""
        self.failures.append(failure)

    async def known_failures(self) -> list[Failure]:
        """Return the recorded failures, oldest first."""
        return self.failures


class DriverChannel:
    """The driver's end. Creates the actor and ends it with `close`."""

    def __init__(self) -> None:
        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        actor_class = ray.remote(num_cpus=0, scheduling_strategy=here)(EventActor)
        self.actor: ActorHandle[EventActor] = actor_class.remote()

    def take(self, timeout_s: float) -> list[DriverEvent]:
        """Return the events since the last call, in order; wait for the first one."""
        events: list[DriverEvent] = ray.get(self.actor.take.remote(timeout_s))
        return events

    def request_stop(self) -> None:
        """Ask the workers to save their state and end."""
        self.actor.request_stop.remote()

    def close(self) -> None:
        """End the actor. Workers that still send events are not disturbed."""
        ray.kill(self.actor)


class WorkerChannel:
    """A worker's end. `send` never waits for the driver."""

    def __init__(self, actor: ActorHandle[EventActor]) -> None:
        self.actor = actor
        self.last_sent = time.monotonic()
        self._reply: ObjectRef[bool] | None = None
        self._stop_requested = False

    def send(self, event: DriverEvent) -> None:
        """Send an event to the driver."""
        self.last_sent = time.monotonic()
        self._reply = self.actor.put.remote(event)

    def heartbeat(self) -> None:
        """Report progress, unless an event was sent within `HEARTBEAT_INTERVAL_S`."""
        if time.monotonic() - self.last_sent > HEARTBEAT_INTERVAL_S:
            self.send(Heartbeat())

    def stop_requested(self) -> bool:
        """Return whether the driver has requested a stop, by the reply to the last event."""
        if self._reply is not None and ray.wait([self._reply], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):
                self._stop_requested = ray.get(self._reply) or self._stop_requested
            self._reply = None
        return self._stop_requested

    def report_failure(self, error: Exception) -> None:
        """Record an error of this rank's own; wait until it is recorded."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.actor.add_failure.remote(Failure.of(error)))

    def fatal_error(self) -> str | None:
        """Return the reason why another attempt would fail too, or None."""
        return repeated_failure(ray.get(self.actor.known_failures.remote()))
