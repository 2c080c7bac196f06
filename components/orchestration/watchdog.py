"""A timer that ends a process without progress, after writing its stacks to a file."""

from __future__ import annotations

import faulthandler
import time
from pathlib import Path

_REARM_INTERVAL_S = 1.0


class Watchdog:
    """Ends this process unless `reset` is called at least every `timeout_s` seconds.

    Before that the stacks of all threads go to the file `stacks`. The timer is a thread of the
    interpreter that takes no Python lock, so it fires even while the process is stuck in C code.
    """

    def __init__(self, timeout_s: float, stacks: Path) -> None:
        self.timeout_s = timeout_s
        stacks.parent.mkdir(parents=True, exist_ok=True)
        self.file = stacks.open("w")
        self.armed_at = 0.0

    def reset(self) -> None:
        """Restart the timer. Cheap: it is restarted once a second at most."""
        now = time.monotonic()
        if now - self.armed_at >= _REARM_INTERVAL_S:
            self.armed_at = now
            faulthandler.dump_traceback_later(self.timeout_s, exit=True, file=self.file)

    def disarm(self) -> None:
        """Stop the timer."""
        faulthandler.cancel_dump_traceback_later()
        self.file.close()
