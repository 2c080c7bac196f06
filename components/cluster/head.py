"""This machine's own Ray, in a process of its own that ends with the one that asked for it.

`ray.init` would start it too, but waits for it, a second and a half in which a stage can import what it needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

_READY = "ready at "
_SETTINGS = {
    # The raylet often looks for its object store a moment too soon, and would then sleep for a second.
    "RAY_raylet_client_connect_timeout_milliseconds": "20",
    "RAY_raylet_client_num_connect_attempts": "500",
    # For workers. Ray Train trains on a thread, and what `training.memory` asks of malloc reaches threads only where they
    # have no heaps of their own.
    "MALLOC_ARENA_MAX": "1",
}
# Once nobody wants it. Ray's agents would spend a minute on telling a head that is gone.
_AGENTS_S = 3.0
_END_S = 15


@contextmanager
def started(cpus: int) -> Iterator[Callable[[], str]]:
    """Begins to start it; what is yielded waits until a driver can connect, and returns where. Ends it with the block.

    Raises (what is yielded):
        RuntimeError: it could not be started; says why.
    """
    # As a file, since what it imports is waited for, and without its folder on the path, where names are Kiln's own. In a
    # session of its own, where no Ctrl-C is heard: how it ends is said by its standard input, whatever becomes of us.
    with subprocess.Popen(
        [sys.executable, "-P", __file__, str(cpus)],
        env={**_SETTINGS, **os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        yield partial(_address, process)


def _address(process: subprocess.Popen[str]) -> str:
    said = [""]
    for line in process.stdout or ():
        if line.startswith(_READY):
            return line.removeprefix(_READY).strip()
        said.append(line.strip())
    raise RuntimeError(said[-1] or f"it ended with {process.wait()} before it had started")


def _main(cpus: int) -> None:
    import resource
    import signal
    import time

    import psutil
    from ray._private import utils
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    class Head(Node):  # type: ignore[misc]
        """Without an autoscaler that has no cloud, a copier of logs that nobody reads, a dashboard that is off."""

        def start_monitor(self) -> None: ...
        def start_log_monitor(self) -> None: ...
        def start_api_server(self, **_: object) -> None: ...

        def start_ray_processes(self) -> None:
            super().start_ray_processes()
            # Ray's own wait for the same looks once a second.
            until = time.monotonic() + 30
            while not self.get_gcs_client().get_all_node_info() and time.monotonic() < until:
                time.sleep(0.02)

    # Ray's agent has less to import and to do where nothing can ask it.
    utils.get_dashboard_dependency_error = lambda: ImportError("no dashboard")
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # as `ray.init` does: its processes have many connections
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most, 65536)), most))
    node = Head(RayParams(num_cpus=cpus, include_dashboard=False), head=True, shutdown_at_exit=False, ray_init_cluster=True)
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    started = set(raylet.children())
    with suppress(OSError):  # nobody may be there any more
        print(f"{_READY}{node.gcs_address}", flush=True)
    sys.stdin.read()
    signal.alarm(_END_S)  # Ray's processes end with this one, however that does
    with suppress(psutil.NoSuchProcess):
        started.update(raylet.children(recursive=True))
    node.kill_all_processes(check_alive=False, allow_graceful=True)
    for left in psutil.wait_procs(started, _AGENTS_S)[1]:
        left.kill()


if __name__ == "__main__":
    _main(int(sys.argv[1]))
