"""A local Ray that starts in the background, and the processes of a driver that dies meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import free_port

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import time
from components.ray_session.session import starting_session
with starting_session() as connect:
    print("starting", flush=True)
    {then}
"""


class Driver:
    """A process that starts a session and runs `then`. Its variable MARK finds its descendants."""

    def __init__(self, then: str, mark: str, **env: str) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.mark = mark
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(then=then)],
            env=inherited | env | {"KILN_TEST_MARK": mark},
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "starting\n"

    def survivors(self) -> list[psutil.Process]:
        """Return the living processes that have the driver's variable, except the driver."""
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                marked = process.environ().get("KILN_TEST_MARK") == self.mark
                alive = process.status() != psutil.STATUS_ZOMBIE
                if marked and alive and process.pid != self.process.pid:
                    found.append(process)
        return found


@pytest.mark.parametrize("seconds", [0.7, 1.4])
def test_no_process_survives_a_driver_that_is_killed_while_ray_starts(
    tmp_path: Path, seconds: float
) -> None:
    driver = Driver("time.sleep(60)", str(tmp_path))
    time.sleep(seconds)
    assert driver.survivors(), "Ray is being started"
    driver.process.send_signal(signal.SIGKILL)
    driver.process.wait()
    deadline = time.monotonic() + 120
    while driver.survivors() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not driver.survivors()


@pytest.mark.parametrize(
    "then", ["raise SystemExit(3)", "connect(); raise SystemExit(3)"], ids=["unused", "connected"]
)
def test_no_process_is_left_when_the_block_ends(tmp_path: Path, then: str) -> None:
    driver = Driver(then, str(tmp_path))
    driver.process.communicate(timeout=600)
    assert driver.process.returncode == 3
    _, alive = psutil.wait_procs(driver.survivors(), timeout=120)
    assert not alive


def test_a_ray_that_cannot_start_ends_in_an_error_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    driver = Driver("connect()", str(tmp_path), RAY_TMPDIR=str(tmp_path / "file"))
    output = driver.process.communicate(timeout=600)[0]
    last = output.splitlines()[-1]
    assert "UserError: Ray at RAY_ADDRESS=local cannot be used: " in last
    assert not driver.survivors()


FIRST_CLIENT_SERVER_FAILS = """
import os, sys
if "--mode=specific-server" in sys.orig_argv:
    try:
        os.close(os.open(os.environ["KILN_TEST_MARK"] + "/failed", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        os._exit(1)
"""


def test_a_head_whose_first_server_for_a_client_fails_is_asked_again(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FIRST_CLIENT_SERVER_FAILS)
    port = free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    site = {"KILN_TEST_MARK": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += ["--node-ip-address=127.0.0.1", "--port=0", "--num-cpus=1", "--disable-usage-stats"]
    command += [f"--ray-client-server-port={port}", "--include-dashboard=false"]
    folder = tempfile.mkdtemp()  # Ray's sockets need a short path
    command.append(f"--temp-dir={folder}")
    head = subprocess.Popen(
        command, env=inherited | site | {"PYTHONPATH": str(tmp_path)}, stdout=subprocess.DEVNULL
    )
    try:
        while head.poll() is None and socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.5)
        driver = Driver(
            "print(connect())", str(tmp_path / "driver"), RAY_ADDRESS=f"ray://127.0.0.1:{port}"
        )
        output = driver.process.communicate(timeout=600)[0]
    finally:
        head.terminate()
        head.wait(300)
        shutil.rmtree(folder, ignore_errors=True)
    assert driver.process.returncode == 0, output
    assert (tmp_path / "failed").exists()
    assert "could not serve this connection" in output
    assert output.splitlines()[-1] == f"ray://127.0.0.1:{port}"
