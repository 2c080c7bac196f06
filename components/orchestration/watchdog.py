"""A rank that makes no progress writes down where it stands and dies, so that somebody notices."""

from __future__ import annotations

import faulthandler
import time
from pathlib import Path

_REARM_S = 1.0


class Watchdog:
    """`alive` has to be called at least every `seconds`; else all stacks go to `stacks` and the process ends.

    The timer is a thread of the interpreter's own that needs no lock of Python's: it fires while the process is stuck in C.
    """

    def __init__(self, seconds: float, stacks: Path) -> None:
        self.seconds = seconds
        stacks.parent.mkdir(parents=True, exist_ok=True)
        self.file = stacks.open("w")
        self.armed = 0.0

    def alive(self) -> None:
        """A sign of progress. Cheap: the timer is set anew once a second at most."""
        now = time.monotonic()
        if now - self.armed >= _REARM_S:
            self.armed = now
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=self.file)

    def rest(self) -> None:
        """Work is done."""
        faulthandler.cancel_dump_traceback_later()
        self.file.close()
