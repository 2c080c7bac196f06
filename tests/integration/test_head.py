"""This machine's own Ray: it ends with whoever asked for it, at whatever moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
_BEGIN = """
import time
from components.cluster.session import starting
with starting() as connect:
    time.sleep({seconds})
    print("now", flush=True)
    {then}
"""
_TWICE = """
import os
from components.cluster.session import session
for mode in ("disabled", None):
    os.environ.pop("RAY_AUTH_MODE", None)
    if mode:
        os.environ["RAY_AUTH_MODE"] = mode
    with session():
        import ray
        print(ray.get(ray.remote(lambda: os.environ["RAY_AUTH_MODE"]).remote()), flush=True)
"""


class Driver:
    """Runs `code` and knows every process of the Ray that it starts: they share a session, led by the first of them."""

    def __init__(self, code: str, **env: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.process = subprocess.Popen([sys.executable, "-c", code], env=clean | env, cwd=ROOT, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline()
        self.heads = {child.pid for child in psutil.Process(self.process.pid).children()}

    def end(self) -> str:
        return self.first + self.process.communicate(timeout=120)[0]

    def left(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                if os.getsid(process.pid) in self.heads and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@pytest.mark.parametrize("seconds", [0, 0.7, 1.4])
def test_nothing_outlives_a_driver_that_is_killed_while_ray_starts(seconds: float) -> None:
    driver = Driver(_BEGIN.format(seconds=seconds, then="time.sleep(60)"))
    assert driver.left(), "Ray is being started"
    driver.process.send_signal(signal.SIGKILL)
    driver.process.wait()
    until = time.monotonic() + 30
    while driver.left() and time.monotonic() < until:
        time.sleep(0.2)
    assert not driver.left()


@pytest.mark.parametrize("then", ["raise SystemExit(3)", "connect(); raise SystemExit(3)"], ids=["unused", "connected"])
def test_nothing_is_left_when_the_block_ends(then: str) -> None:
    driver = Driver(_BEGIN.format(seconds=0, then=then))
    assert driver.left(), "Ray is being started"
    assert (driver.end(), driver.process.returncode) == ("now\n", 3)
    assert not driver.left()


def test_a_ray_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    driver = Driver(_BEGIN.format(seconds=0, then="connect()"), RAY_TMPDIR=str(tmp_path / "file"))
    last = driver.end().splitlines()[-1]
    assert "UserError: Ray at RAY_ADDRESS=local cannot be used: NotADirectoryError" in last
    assert not driver.left()


def test_it_asks_for_a_token_unless_told_otherwise() -> None:
    assert Driver(_TWICE).end().split() == ["disabled", "token"]
