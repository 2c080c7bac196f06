"""Between the workers and the driver: events one way, the wish to stop and what is known of earlier failures the other.

Both kinds of mailbox outlive worker groups. The driver makes one and hands it to every worker as an argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.exceptions
from ray.actor import ActorHandle

_QUIET_S = 2.0
_LOOK_S = 0.25
# An error that ended this many worker groups in the same way is not bad luck.
_TWICE = 2


class Mailbox(Protocol):
    """No worker waits for the driver while training goes on: what does wait says so."""

    def put(self, event: dict[str, Any]) -> None:
        """A worker's: an event of plain values, for the driver."""

    def stop_asked(self) -> bool:
        """A worker's: whether the driver wants an end, as far as is known here."""

    def failed(self, signature: str, text: str) -> None:
        """A worker's, which waits: an error of its own, and what makes another one the same."""

    def hopeless(self) -> str | None:
        """A worker's, which waits: why there is no use in another attempt, if there is none."""

    def take(self, wait_s: float) -> list[dict[str, Any]]:
        """The driver's: what has come in since the last call, in order; waits for the first."""

    def ask_to_stop(self) -> None:
        """The driver's."""

    def close(self) -> None:
        """The driver's, when nobody is to use it any more."""


def on_this_machine() -> bool:
    """Whether the connected Ray is this machine's own, and no other's."""
    return not os.environ.get("RAY_ADDRESS") and not ray.nodes()[1:]


def make_mailbox() -> Mailbox:
    """Files, if all workers will be here; else an actor here, so that the loss of another machine does not take it along."""
    if on_this_machine():
        return FolderMailbox(Path(tempfile.mkdtemp(prefix="kiln-mailbox-")))
    here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
    return ActorMailbox(ray.remote(num_cpus=0, label_selector=here)(_Keeper).remote())


class FolderMailbox:
    """Files in `path`. An actor would take its turns beside the workers (it wakes a hundred times a second, unasked), and
    import Ray beside them before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unsent: deque[bytes] = deque()
        self.read, self.rest = 0, b""

    def put(self, event: dict[str, Any]) -> None:
        # A line that a full disk cut short is passed over, and written again when there is room.
        self.unsent.append(b"\n%s\n" % json.dumps(event).encode())
        while self.unsent:
            line = self.unsent.popleft()
            if not self._append("events", line):
                self.unsent.appendleft(line)
                return

    def stop_asked(self) -> bool:
        return (self.path / "stop").exists()

    def failed(self, signature: str, text: str) -> None:
        self._append("failures", b"\n%s\n" % json.dumps([signature, text]).encode())

    def hopeless(self) -> str | None:
        with contextlib.suppress(FileNotFoundError):
            return _hopeless(_records((self.path / "failures").read_bytes()))
        return None

    def take(self, wait_s: float) -> list[dict[str, Any]]:
        until = time.monotonic() + wait_s
        while not (events := self._fresh()) and time.monotonic() < until:
            time.sleep(_LOOK_S)
        return events

    def ask_to_stop(self) -> None:
        (self.path / "stop").touch()

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _append(self, name: str, line: bytes) -> bool:
        """Whether it was written, whole. In one call, so that no two mix."""
        try:
            file = os.open(self.path / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError:
            return False
        try:
            return os.write(file, line) == len(line)
        except OSError:
            return False
        finally:
            os.close(file)

    def _fresh(self) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError), (self.path / "events").open("rb") as file:
            file.seek(self.read)
            data = file.read()
            self.read += len(data)
            whole, _, self.rest = (self.rest + data).rpartition(b"\n")
            return _records(whole)
        return []


def _records(lines: bytes) -> list[Any]:
    found = []
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _hopeless(failures: list[tuple[str, str]]) -> str | None:
    counts = Counter(signature for signature, _ in failures)
    text = next((text for signature, text in failures if counts[signature] >= _TWICE), None)
    return None if text is None else f"training failed the same way {_TWICE} times: {text}"


class ActorMailbox:
    """An actor, wherever the workers are."""

    def __init__(self, keeper: ActorHandle[_Keeper]) -> None:
        self.keeper = keeper
        self.reply: Any = None
        self.stop = False

    def put(self, event: dict[str, Any]) -> None:
        self.reply = self.keeper.put.remote(event)

    def stop_asked(self) -> bool:
        """Known as soon as the reply to the last event is here."""
        if self.reply is not None and ray.wait([self.reply], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):
                self.stop = ray.get(self.reply) or self.stop
            self.reply = None
        return self.stop

    def failed(self, signature: str, text: str) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.keeper.failed.remote(signature, text))

    def hopeless(self) -> str | None:
        return _hopeless(ray.get(self.keeper.known_failures.remote()))

    def take(self, wait_s: float) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = ray.get(self.keeper.take.remote(wait_s))
        return events

    def ask_to_stop(self) -> None:
        self.keeper.ask_to_stop.remote()

    def close(self) -> None:
        ray.kill(self.keeper)


class _Keeper:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.arrived = asyncio.Event()
        self.stop = False
        self.failures: list[tuple[str, str]] = []

    async def put(self, event: dict[str, Any]) -> bool:
        """Returns whether the driver wants training to stop."""
        self.events.append(event)
        self.arrived.set()
        return self.stop

    async def take(self, wait_s: float) -> list[dict[str, Any]]:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.arrived.wait(), wait_s)
        self.arrived.clear()
        events, self.events = self.events, []
        return events

    async def ask_to_stop(self) -> None:
        self.stop = True

    async def failed(self, signature: str, text: str) -> None:
        self.failures.append((signature, text))

    async def known_failures(self) -> list[tuple[str, str]]:
        return self.failures


class Line:
    """A worker's end of it."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.last = time.monotonic()

    def emit(self, event: dict[str, Any]) -> None:
        self.last = time.monotonic()
        self.mailbox.put(event)

    def heartbeat(self) -> None:
        """Says that there is progress, if nothing else has been said for a while."""
        if time.monotonic() - self.last > _QUIET_S:
            self.emit({"kind": "alive"})

    def failed(self, error: Exception) -> None:
        """Reports an error of this rank's own; numbers and addresses in its text do not make it another one."""
        text = f"{type(error).__name__}: {error}"
        place = " ".join(getattr(error, "__notes__", []))
        self.mailbox.failed(re.sub(r"0x[0-9a-f]+|\d+", "#", text) + place, f"{text} {place}".strip())

    def tell_stacks(self, stacks: Path, rank: int, seconds: float) -> None:
        """Tells of the stacks that a rank's watchdog left here in an earlier group, and keeps them."""
        if stacks.exists() and stacks.stat().st_size:
            kept = stacks.replace(stacks.with_suffix(f".{int(time.time())}.txt"))
            self.emit(
                {"kind": "warning", "text": f"rank {rank} made no step for {seconds:g} s and was ended; its stacks: {kept}"}
            )
