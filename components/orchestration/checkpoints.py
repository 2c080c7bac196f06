"""Checkpoints in a folder or an object store: verified before use, written in the background."""

from __future__ import annotations

import hashlib
import io
import json
import queue
import threading
from collections.abc import Callable
from typing import Any

import torch

from components.storage import BlobStore
from components.training.events import TrainingWarning

Notify = Callable[[TrainingWarning], None]


class Checkpoints:
    """The checkpoints of one training, named by their global step.

    `<step>.pt` is a blob for `torch.load(weights_only=True)`. `<step>.json` has its SHA-256 and
    is written after it: a blob without it, or with another digest, is not used.
    """

    def __init__(self, store: BlobStore, fingerprint: str, keep: int) -> None:
        self.store = store
        self.fingerprint = fingerprint
        self.keep = keep

    def write(self, state: dict[str, Any]) -> None:
        """Save a state and delete the checkpoints beyond the newest `keep`.

        Raises:
            OSError: there is no room, or the store does not answer. Older checkpoints stay.
        """
        name = f"{state['step']:010d}"
        buffer = io.BytesIO()
        torch.save({"fingerprint": self.fingerprint, "state": state}, buffer)
        data = buffer.getvalue()
        description = {
            "fingerprint": self.fingerprint,
            "step": state["step"],
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        self.store.put(f"{name}.pt", data)
        self.store.put(f"{name}.json", json.dumps(description).encode())
        for old in self._names()[self.keep :]:
            self.store.delete(f"{old}.json")
            self.store.delete(f"{old}.pt")

    def read_newest(self, notify: Notify) -> bytes | None:
        """Return the newest blob that verifies, or None. Report those that do not to `notify`."""
        for name in self.store.names():
            if name.startswith("."):  # the temporary file of a process that was killed
                self.store.delete(name)
        for name in self._names():
            try:
                return self._read_verified(name)
            except (OSError, ValueError, KeyError, TypeError) as error:
                notify(
                    TrainingWarning(
                        f"the checkpoint {name}.pt in {self.store.uri} cannot be used ({error}); "
                        "trying the one before it"
                    )
                )
                if not isinstance(error, OSError):
                    # Otherwise it would count among the newest that are kept.
                    self.store.delete(f"{name}.json")
        return None

    def _read_verified(self, name: str) -> bytes:
        description = json.loads(self.store.get(f"{name}.json"))
        data = self.store.get(f"{name}.pt")
        sha256 = hashlib.sha256(data).hexdigest()
        if description["fingerprint"] != self.fingerprint:
            raise ValueError(f"it belongs to the training {description['fingerprint'][:12]}")
        if sha256 != description["sha256"]:
            raise ValueError(f"expected sha256 {description['sha256']}, found {sha256}")
        return data

    def _names(self) -> list[str]:
        """Return the names of the described checkpoints, newest first."""
        names = [name for name in self.store.names() if name.endswith(".json")]
        return sorted((name.removesuffix(".json") for name in names), reverse=True)


def parse_checkpoint(data: bytes) -> dict[str, Any]:
    """Return the training state in a blob of `Checkpoints`, on the CPU."""
    loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    state: dict[str, Any] = loaded["state"]
    return state


class CheckpointWriter:
    """Writes checkpoints on a thread of its own, while the loop goes on.

    A newer state replaces one that still waits. A state that cannot be written is reported to
    `notify`; training continues, and the next state may fit on the disk.
    """

    def __init__(self, checkpoints: Checkpoints, notify: Notify) -> None:
        self.checkpoints = checkpoints
        self.notify = notify
        self._queue: queue.Queue[tuple[dict[str, Any], threading.Event]] = queue.Queue()
        threading.Thread(target=self._run, name="checkpoints", daemon=True).start()

    def save(self, state: dict[str, Any], wait: bool) -> None:
        """Queue a state for writing. With `wait`, return when it is written or has failed."""
        done = threading.Event()
        self._queue.put((state, done))
        if wait:
            done.wait()

    def _run(self) -> None:
        while True:
            waiting = [self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get())
            state, _ = waiting[-1]
            try:
                self.checkpoints.write(state)
            except Exception as error:  # noqa: BLE001 (no fault of the store may end the training)
                self.notify(
                    TrainingWarning(
                        f"no checkpoint at step {state['step']}: {self.checkpoints.store.uri}: "
                        f"{error}; the one before it stands, training goes on and the next will "
                        "be tried"
                    )
                )
            for _, done in waiting:
                done.set()


def read_marker(store: BlobStore, name: str) -> str | None:
    """Return a text that was stored beside the checkpoints, or None."""
    try:
        return store.get(name).decode()
    except OSError:
        return None


def write_marker(store: BlobStore, name: str, value: str) -> None:
    """Store a text beside the checkpoints."""
    store.put(name, value.encode())
