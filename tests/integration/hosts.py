"""Several hosts on one machine: network, mount and process namespaces on a bridge.

Each host has its own /tmp, HOME, /dev/shm, name and processes, and of this checkout it sees the environment alone. `dev`, the
submitter, keeps the machine's files. Ending a host's first process ends all of it, as pulling the plug does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
ENVIRONMENT = Path(sys.prefix)
SUBNET = "10.77.0"
_SPACES = ["--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def skip_without_rights() -> None:
    probe = ["unshare", *_SPACES, "ip", "link", "add", "kiln-probe", "type", "bridge"]
    try:
        done = subprocess.run(probe, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"hosts of a cluster need network namespaces: {error}")
    if done.returncode:
        pytest.skip(f"hosts of a cluster need root and network namespaces: {done.stderr.strip()}")


class Host:
    """One host; `run` and `start` work inside it."""

    def __init__(self, name: str, number: int, hub: int, names: Path) -> None:
        self.name, self.hub, self.address = name, hub, f"{SUBNET}.{10 + number}"
        self.cable, self.processes = f"k{number}", list[subprocess.Popen[str]]()
        setup = f"hostname {name}; mount --make-rprivate /; mount --bind {names} /etc/hosts; ip link set lo up; "
        if name != "dev":
            kept = "/run/kiln-env"
            setup += f"mkdir -p {kept}; mount -t tmpfs tmpfs {kept}; mkdir {kept}/e; mount --bind {ENVIRONMENT} {kept}/e; "
            for hidden in ("/tmp", "/var/tmp", "/dev/shm", "/mnt", CHECKOUT):
                # The checkout may lie in what has just been hidden.
                setup += f"mkdir -p {hidden}; mount -t tmpfs -o size=4g,mode=1777 tmpfs {hidden}; "
            setup += f"mkdir -p {ENVIRONMENT}; mount --bind {kept}/e {ENVIRONMENT}; "
        self.first = subprocess.Popen(
            ["unshare", *_SPACES, "bash", "-ec", setup + "echo ready; exec sleep infinity"], stdout=subprocess.PIPE, text=True
        )
        assert self.first.stdout is not None
        assert self.first.stdout.readline() == "ready\n", f"host {name} did not come up"
        self.pid = psutil.Process(self.first.pid).children()[0].pid
        _at(hub, f"ip link add {self.cable} type veth peer name eth0 netns {self.pid}")
        _at(hub, f"ip link set {self.cable} master kiln0 up")
        _at(self.pid, f"ip addr add {self.address}/24 dev eth0")
        _at(self.pid, "ip link set eth0 up")
        _at(self.pid, f"ip route add default via {SUBNET}.1")

    def start(
        self, *command: str, cwd: Path | None = None, log: Path | None = None, stdin: int = subprocess.DEVNULL, **env: str
    ) -> subprocess.Popen[str]:
        """Starts a command there; its output goes to `log`, or can be read from the process."""
        home = str(Path.home()) if self.name == "dev" else "/mnt"
        base = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "KILN_", "AWS_", "DVC_"))}
        base |= {"HOME": home, "PATH": f"{ENVIRONMENT}/bin:{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}
        base |= {"MLFLOW_DISABLE_TELEMETRY": "true", **env}
        inside = ["nsenter", "-t", str(self.pid), "-m", "-u", "-n", "-p", "--wd=" + str(cwd or "/mnt")]
        out = log.open("a") if log else subprocess.PIPE
        process = subprocess.Popen([*inside, *command], env=base, text=True, stdin=stdin,
                                   stdout=out, stderr=subprocess.STDOUT)  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, *command: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*command, cwd=cwd, **env)
        told, _ = process.communicate(timeout=600)
        return subprocess.CompletedProcess(command, process.returncode, told)

    def cut(self) -> None:
        """Unplugs the network cable."""
        _at(self.hub, f"ip link set {self.cable} down")

    def heal(self) -> None:
        _at(self.hub, f"ip link set {self.cable} up")

    def kill(self) -> None:
        """Pulls the plug."""
        self.first.kill()
        self.first.wait()
        for process in self.processes:
            process.wait()


class Network:
    """A bridge and the hosts on it."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        hosts = "".join(f"{SUBNET}.{11 + n} {name}\n" for n, name in enumerate(names))
        # As on many machines, a host's own name means 127.0.1.1 there: collectives must find the right interface.
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.hosts: dict[str, Host] = {}
        deadline = time.monotonic() + 10
        while Path(f"/proc/{self.holder.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        _at(self.holder.pid, "ip link add kiln0 type bridge")
        _at(self.holder.pid, "ip link set kiln0 up")
        for n, name in enumerate(names, 1):
            own = folder / f"hosts-{name}"
            own.write_text("127.0.0.1 localhost\n" + hosts.replace(f"{SUBNET}.{10 + n} ", "127.0.1.1 "))
            self.hosts[name] = Host(name, n, self.holder.pid, own)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def down(self) -> None:
        for host in self.hosts.values():
            host.kill()
        self.holder.kill()
        self.holder.wait()


def _at(pid: int, command: str) -> None:
    subprocess.run(["nsenter", "-t", str(pid), "-n", *command.split()], check=True)
