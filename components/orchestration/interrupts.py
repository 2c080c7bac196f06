"""SIGINT and SIGTERM, collected for a loop that stops between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collect_interrupts() -> Iterator[list[int]]:
    """Yield a list to which the first SIGINT or SIGTERM is appended.

    The second one raises KeyboardInterrupt. Ctrl-C and the stop of a job thus end in the same
    way. On any thread but the main one the list stays empty, because Python delivers signals to
    the main thread only.
    """
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # These replace the handlers that Ray has installed by now.
    previous = {
        number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
