"""The mailbox of a training on this machine: files."""

from __future__ import annotations

import errno
import os
import pickle
import threading
import time
from pathlib import Path

import pytest

from components.orchestration.event_channel import FolderMailbox, Line


def _step(number: int) -> dict[str, object]:
    return {"kind": "step", "step": number, "loss": 0.5}


@pytest.fixture
def ends(tmp_path: Path) -> tuple[FolderMailbox, FolderMailbox]:
    """The driver's, and the copy that a worker is sent."""
    driver = FolderMailbox(tmp_path)
    return driver, pickle.loads(pickle.dumps(driver))


def test_events_come_once_and_in_order_from_any_thread(ends: tuple[FolderMailbox, FolderMailbox]) -> None:
    driver, worker = ends
    assert driver.take(0) == []
    writers = [threading.Thread(target=lambda n=n: [worker.put({"of": n, "i": i}) for i in range(200)]) for n in range(3)]
    for writer in writers:
        writer.start()
    found: list[dict[str, int]] = []
    while any(writer.is_alive() for writer in writers):
        found += driver.take(0)
    found += driver.take(0)
    assert {n: [e["i"] for e in found if e["of"] == n] for n in range(3)} == {n: list(range(200)) for n in range(3)}
    assert driver.take(0) == []


def test_the_driver_is_woken_by_the_first_event(ends: tuple[FolderMailbox, FolderMailbox]) -> None:
    driver, worker = ends
    threading.Timer(0.3, worker.put, [_step(1)]).start()
    begun = time.monotonic()
    assert driver.take(30) == [_step(1)]
    assert time.monotonic() - begun < 10


def test_a_line_that_was_cut_short_costs_nothing_but_itself(ends: tuple[FolderMailbox, FolderMailbox]) -> None:
    driver, worker = ends
    worker.put(_step(1))
    with (driver.path / "events").open("ab") as file:
        file.write(b'\n{"kind": "ste')  # its writer was killed
    assert driver.take(0) == [_step(1)]
    FolderMailbox(driver.path).put(_step(2))
    assert driver.take(0) == [_step(2)]


def test_what_a_full_disk_refused_comes_when_there_is_room(
    ends: tuple[FolderMailbox, FolderMailbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, worker = ends
    write, room = os.write, 0

    def full(file: int, data: bytes) -> int:
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:room])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        worker.put(_step(1))
        room = 9
        worker.put(_step(2))
        assert driver.take(0) == []
    worker.put(_step(3))
    assert driver.take(0) == [_step(1), _step(2), _step(3)]


def test_a_wish_to_stop_reaches_every_worker(ends: tuple[FolderMailbox, FolderMailbox]) -> None:
    driver, worker = ends
    assert not worker.stop_asked()
    driver.ask_to_stop()
    assert worker.stop_asked()


def test_the_same_failure_twice_is_hopeless_whatever_its_numbers(ends: tuple[FolderMailbox, FolderMailbox]) -> None:
    _, worker = ends
    Line(worker).failed(ValueError("bad row 17"))
    Line(worker).failed(ValueError("bad column 3"))
    assert worker.hopeless() is None
    Line(worker).failed(ValueError("bad row 99"))
    assert worker.hopeless() == "training failed the same way 2 times: ValueError: bad row 17"


def test_nothing_is_left_when_it_is_closed(ends: tuple[FolderMailbox, FolderMailbox]) -> None:
    driver, worker = ends
    worker.put(_step(1))
    driver.close()
    assert not driver.path.exists()
    worker.put(_step(2))  # a worker that lives a moment longer is not disturbed
    assert not worker.stop_asked()
