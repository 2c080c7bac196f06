"""This machine's own Ray: it ends with whoever asked for it, at whatever moment."""

from __future__ import annotations

import json
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
from components.ray_session.session import starting
with starting() as connect:
    time.sleep({seconds})
    print("now", flush=True)
    {then}
"""
_TWICE = """
import os
from components.ray_session.session import session
for mode in ("disabled", None):
    os.environ.pop("RAY_AUTH_MODE", None)
    if mode:
        os.environ["RAY_AUTH_MODE"] = mode
    with session():
        import ray
        print(ray.get(ray.remote(lambda: os.environ["RAY_AUTH_MODE"]).remote()), flush=True)
"""
_IDLE = "p.name().startswith('ray::IDLE')"
_WORK = """
import json, os, sys
from components.ray_session.session import starting
with starting(1, 3, ["json.tool", "a_module_that_is_not_there"]) as connect:
    connect()
    import ray
    class Actor:
        def found(self):
            return os.getpid(), os.environ["OMP_NUM_THREADS"], "json.tool" in sys.modules, os.environ.get("RAY_ANSWER")
    {then}
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


def test_a_worker_is_there_before_there_is_work_and_has_imported_what_it_needs() -> None:
    idle = f"[p.pid for p in __import__('psutil').process_iter() if {_IDLE}]"
    driver = Driver(_WORK.format(then=f"print(json.dumps([{idle}, ray.get(ray.remote(Actor).remote().found.remote())]))"))
    there, (pid, *rest) = json.loads(driver.end())
    assert pid in there
    assert rest == ["3", True, None]


def test_an_environment_that_somebody_asks_for_is_made() -> None:
    """Ray Train asks for one where the number of workers may change, and for variables of its own that users set."""
    asked = 'ray.remote(Actor).options(runtime_env={"env_vars": {"RAY_ANSWER": "42"}}).remote()'
    found = json.loads(Driver(_WORK.format(then=f"print(json.dumps(ray.get({asked}.found.remote(), timeout=60)))")).end())
    assert found[1:] == ["3", True, "42"]


def test_what_stands_for_rays_agents_ends_with_the_raylet() -> None:
    driver = Driver(_BEGIN.format(seconds=0, then="connect(); print('connected', flush=True); time.sleep(60)"))
    assert driver.process.stdout is not None
    assert driver.process.stdout.readline() == "connected\n"
    agents = [p for p in driver.left() if any(word.endswith(("agent.py", "agent/main.py")) for word in p.cmdline())]
    raylet = next(p for p in driver.left() if p.name() == "raylet")
    assert len(agents) == 2
    raylet.kill()
    assert not psutil.wait_procs(agents, timeout=20)[1]
    driver.process.kill()
    driver.process.wait()
