"""This machine's own Ray, in a process of its own that ends with the one that asked for it.

`ray.init` would start it too, but waits for it, seconds in which a stage can import what it needs. And a raylet starts no
worker before its two agents have imported theirs, for whoever looks at a cluster or asks for environments: nobody here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

_READY = "ready at "
_SETTINGS = {
    # The raylet often looks for its object store a moment too soon, and would then sleep for a second.
    "RAY_raylet_client_connect_timeout_milliseconds": "20",
    "RAY_raylet_client_num_connect_attempts": "500",
    # Workers start with the raylet, not with the first driver, which would have to wait for them.
    "RAY_enable_worker_prestart": "1",
    "RAY_prestart_worker_first_driver": "0",
    # For workers. Ray Train trains on a thread, and what `training.memory` asks of malloc reaches threads only where they
    # have no heaps of their own.
    "MALLOC_ARENA_MAX": "1",
}
# Once nobody wants it. Ray's own agents, if they have come to be, would spend a minute on telling a head that is gone.
_AGENTS_S = 3.0
_END_S = 15
# What a raylet wants to know of its agents (`ray._raylet`); -1 says that there is none.
_PORTS_OF_NOBODY = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
_PORT_OF_ENVIRONMENTS = "runtime_env_agent_port"


@contextmanager
def started(cpus: int, workers: int, threads: int = 1, modules: Iterable[str] = ()) -> Iterator[Callable[[], str]]:
    """Begins to start it; what is yielded waits until a driver can connect, and returns where. Ends it with the block.

    `workers` processes of as many `threads` are started beforehand, and import `modules` while nobody has work for them.

    Raises (what is yielded):
        RuntimeError: it could not be started; says why.
    """
    # As a file, since what it imports is waited for, and without its folder on the path, where names are Kiln's own. In a
    # session of its own, where no Ctrl-C is heard: how it ends is said by its standard input, whatever becomes of us.
    with subprocess.Popen(
        [sys.executable, "-P", __file__, str(cpus), str(workers)],
        env={
            **_SETTINGS,
            # Ray sets it when a worker gets work, too late for what it has imported by then.
            "OMP_NUM_THREADS": str(threads),
            "RAY_preload_python_modules": ",".join(modules),
            **os.environ,
        },
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


def _main(cpus: int, workers: int) -> None:
    import resource
    import signal
    import time

    import psutil
    from ray._private import services, utils
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    start = services.start_ray_process
    services.start_ray_process = lambda command, *rest, **named: start(_as_wanted(command, workers), *rest, **named)

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

    # Otherwise it would import what a dashboard needs, to see whether it could.
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


def _as_wanted(command: list[str], workers: int) -> list[str]:
    """A raylet's command with as many workers beforehand, and with this file between it and its agents."""
    ours = subprocess.list2cmdline(["-u", "-P", __file__])
    changed = []
    for word in command:
        name, _, value = word.partition("=")
        if name == "--num_prestart_python_workers":
            value = str(workers)
        elif name in ("--dashboard_agent_command", "--runtime_env_agent_command"):
            value = value.replace(" -u ", f" {ours} ", 1)
        changed.append(f"{name}={value}" if value else word)
    return changed


def _agent(program: str, *words: str) -> None:
    """In the place of one of Ray's agents: tells the raylet at once what it waits for, and ends with it.

    Where somebody does ask for an environment (Ray Train does, for its own settings, in all but our local trainer), it
    becomes the agent for them, on the socket that was called.
    """
    import runpy
    import select
    import socket

    options = dict(word.partition("=")[::2] for word in words)

    def tell(name: str, port: int) -> None:
        path = Path(options["--session-dir"], f"{name}_{options['--node-id']}")
        fresh = path.with_name(f"{path.name}.fresh")
        fresh.write_text(str(port))
        fresh.replace(path)

    calls: list[socket.socket] = []
    address = options["--node-ip-address"]
    if "--runtime-env-dir" in options:
        calls = [socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)]
        tell(_PORT_OF_ENVIRONMENTS, calls[0].getsockname()[1])
    else:
        for name in _PORTS_OF_NOBODY:
            tell(name, -1)
    while not select.select(calls, [], [], 1)[0]:
        if os.getppid() != int(os.environ["RAY_RAYLET_PID"]):
            return
    bind = socket.socket.bind

    def take_over(fresh: socket.socket, wanted: Any) -> None:
        if wanted[0] == address:
            os.dup2(calls[0].fileno(), fresh.fileno())
        else:
            bind(fresh, wanted)

    socket.socket.bind = take_over  # type: ignore[assignment, method-assign]
    sys.argv = [program, *words]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1].isdecimal():
        _main(int(sys.argv[1]), int(sys.argv[2]))
    else:
        _agent(*sys.argv[1:])
