"""Between the workers and the driver: events one way, the wish to stop and what is known of earlier failures the other."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray.actor import ActorHandle

_QUIET_S = 2.0
# An error that ended this many worker groups in the same way is not bad luck.
_TWICE = 2


class Mailbox:
    """An actor beside the driver. It outlives worker groups."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.arrived = asyncio.Event()
        self.stop = False
        self.failures: Counter[str] = Counter()
        self.cause: str | None = None

    async def put(self, event: dict[str, Any]) -> bool:
        """Takes an event in; returns whether the driver wants training to stop."""
        self.events.append(event)
        self.arrived.set()
        return self.stop

    async def take(self, wait_s: float) -> list[dict[str, Any]]:
        """What has come in since the last call, in order; waits for the first."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.arrived.wait(), wait_s)
        self.arrived.clear()
        events, self.events = self.events, []
        return events

    async def ask_to_stop(self) -> None:
        self.stop = True

    async def failed(self, signature: str, text: str) -> None:
        self.failures[signature] += 1
        if self.failures[signature] >= _TWICE:
            self.cause = f"training failed the same way {_TWICE} times: {text}"

    async def hopeless(self) -> str | None:
        """Why there is no use in another attempt, if there is none."""
        return self.cause


def make_mailbox() -> ActorHandle[Mailbox]:
    """Started on the driver's own node, so that the loss of another does not take it along."""
    here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
    return ray.remote(num_cpus=0, label_selector=here)(Mailbox).remote()


class Line:
    """A worker's end of it. Nothing here waits for the driver while training goes on."""

    def __init__(self, mailbox: ActorHandle[Mailbox]) -> None:
        self.mailbox = mailbox
        self.reply: Any = None
        self.last = time.monotonic()
        self.stop = False

    def hopeless(self) -> str | None:
        cause: str | None = ray.get(self.mailbox.hopeless.remote())
        return cause

    def emit(self, event: dict[str, Any]) -> None:
        self.last = time.monotonic()
        self.reply = self.mailbox.put.remote(event)

    def heartbeat(self) -> None:
        """Says that there is progress, if nothing else has been said for a while."""
        if time.monotonic() - self.last > _QUIET_S:
            self.emit({"kind": "alive"})

    def stop_asked(self) -> bool:
        """Whether the driver wants an end; known as soon as the reply to the last event is here."""
        if self.reply is not None and ray.wait([self.reply], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):
                self.stop = ray.get(self.reply) or self.stop
            self.reply = None
        return self.stop

    def failed(self, error: Exception) -> None:
        """Reports an error of this rank's own; numbers and addresses in its text do not make it another one."""
        text = f"{type(error).__name__}: {error}"
        place = " ".join(getattr(error, "__notes__", []))
        signature = re.sub(r"0x[0-9a-f]+|\d+", "#", text) + place
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.mailbox.failed.remote(signature, f"{text} {place}".strip()))

    def tell_stacks(self, stacks: Path, rank: int, seconds: float) -> None:
        """Tells of the stacks that a rank's watchdog left here in an earlier group, and keeps them."""
        if stacks.exists() and stacks.stat().st_size:
            kept = stacks.replace(stacks.with_suffix(f".{int(time.time())}.txt"))
            self.emit(
                {"kind": "warning", "text": f"rank {rank} made no step for {seconds:g} s and was ended; its stacks: {kept}"}
            )
