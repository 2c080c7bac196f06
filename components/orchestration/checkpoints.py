"""Checkpoints on a disk or an object store: verified before they are used, and written without holding up training."""

from __future__ import annotations

import hashlib
import io
import json
import queue
import threading
from collections.abc import Callable
from typing import Any

from components.storage import BlobStore

Notify = Callable[[dict[str, Any]], None]


class Checkpoints:
    """The checkpoints of one training, named by their step.

    Each is a blob that `torch.load(weights_only=True)` reads, and a note with its SHA-256 that is written after it: a blob
    without a note, or one that does not fit it, does not count.
    """

    def __init__(self, place: BlobStore, fingerprint: str, keep: int) -> None:
        self.place, self.fingerprint, self.keep = place, fingerprint, keep

    def write(self, state: dict[str, Any]) -> None:
        """Raises `OSError` if there is no room; the checkpoints before it stand."""
        import torch  # the driver has notes to keep here, but no tensors

        name = f"{state['step']:010d}"
        buffer = io.BytesIO()
        torch.save({"fingerprint": self.fingerprint, "state": state}, buffer)
        data = buffer.getvalue()
        note = {"fingerprint": self.fingerprint, "step": state["step"], "sha256": hashlib.sha256(data).hexdigest()}
        self.place.put(f"{name}.pt", data)
        self.place.put(f"{name}.json", json.dumps(note).encode())
        for old in self._steps()[self.keep :]:
            self.place.delete(f"{old}.json")
            self.place.delete(f"{old}.pt")

    def newest(self, notify: Notify) -> bytes | None:
        """The newest blob that verifies. Tells of those that do not."""
        for name in self.place.names():
            if name.startswith("."):  # what a killed process was writing
                self.place.delete(name)
        for name in self._steps():
            try:
                note = json.loads(self.place.get(f"{name}.json"))
                data = self.place.get(f"{name}.pt")
                found = hashlib.sha256(data).hexdigest()
                if note["fingerprint"] != self.fingerprint:
                    raise ValueError(f"it belongs to the training {note['fingerprint'][:12]}")
                if found != note["sha256"]:
                    raise ValueError(f"expected sha256 {note['sha256']}, found {found}")
                return data
            except (OSError, ValueError, KeyError, TypeError) as error:
                text = f"the checkpoint {name}.pt in {self.place.uri} cannot be used ({error}); trying the one before it"
                notify({"kind": "warning", "text": text})
                if not isinstance(error, OSError):
                    self.place.delete(f"{name}.json")  # or it would count among the newest that are kept
        return None

    def read(self, data: bytes) -> dict[str, Any]:
        import torch

        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["state"]
        return state

    def _steps(self) -> list[str]:
        return sorted((name.removesuffix(".json") for name in self.place.names() if name.endswith(".json")), reverse=True)


class Writer:
    """Writes on a thread of its own: the loop hands over a copy of the state and goes on.

    A state that comes while an older one is still being written replaces one that waits. What cannot be written is told,
    and training goes on: the next one may find room again.
    """

    def __init__(self, checkpoints: Checkpoints, notify: Notify) -> None:
        self.checkpoints, self.notify = checkpoints, notify
        self._queue: queue.Queue[tuple[dict[str, Any], threading.Event]] = queue.Queue()
        threading.Thread(target=self._work, name="checkpoints", daemon=True).start()

    def save(self, state: dict[str, Any], wait: bool) -> None:
        """`wait` returns when the state is safe, or could not be made so."""
        done = threading.Event()
        self._queue.put((state, done))
        if wait:
            done.wait()

    def _work(self) -> None:
        while True:
            waiting = [self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get())
            state = waiting[-1][0]
            try:
                self.checkpoints.write(state)
            except Exception as error:  # noqa: BLE001 (a full disk, a lost store: none of it is worth the training)
                self.notify(
                    {
                        "kind": "warning",
                        "text": f"no checkpoint at step {state['step']}: {self.checkpoints.place.uri}: {error}; "
                        "the one before it stands, training goes on and the next will be tried",
                    }
                )
            for _, done in waiting:
                done.set()


def note(place: BlobStore, name: str, value: str | None = None) -> str | None:
    """Keeps a word beside the checkpoints, or reads it; None if there is none."""
    if value is not None:
        place.put(name, value.encode())
        return value
    try:
        return place.get(name).decode()
    except OSError:
        return None
