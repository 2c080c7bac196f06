"""Several hosts on one machine: network, mount and process namespaces on a bridge.

Each host has its own /tmp, HOME, /dev/shm, host name and processes. It does not see this checkout,
only the Python environment. The host `dev`, from which jobs are submitted, keeps the machine's
files. Killing a host's first process ends all its processes at once, like a power cut.
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
_NAMESPACES = ["--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def skip_without_rights() -> None:
    """Skip the test unless this user may create network namespaces and bridges."""
    probe = ["unshare", *_NAMESPACES, "ip", "link", "add", "kiln-probe", "type", "bridge"]
    try:
        done = subprocess.run(probe, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"hosts of a cluster need network namespaces: {error}")
    if done.returncode:
        pytest.skip(f"hosts of a cluster need root and network namespaces: {done.stderr.strip()}")


class Host:
    """One host. `run` and `start` run commands on it.

    Args:
        name: host name.
        number: last part of the address, counted from 10.
        bridge: id of a process in the network namespace of the bridge.
        hosts_file: the host sees it as /etc/hosts.
    """

    def __init__(self, name: str, number: int, bridge: int, hosts_file: Path) -> None:
        self.name = name
        self.bridge = bridge
        self.address = f"{SUBNET}.{10 + number}"
        self.cable = f"k{number}"
        self.processes: list[subprocess.Popen[str]] = []
        setup = [f"hostname {name}", *_mounts(hosts_file, hide_files=name != "dev")]
        setup += ["ip link set lo up", "echo ready", "exec sleep infinity"]
        self.init = subprocess.Popen(
            ["unshare", *_NAMESPACES, "bash", "-ec", "; ".join(setup)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.init.stdout is not None
        assert self.init.stdout.readline() == "ready\n", f"host {name} did not come up"
        self.pid = psutil.Process(self.init.pid).children()[0].pid
        _run_in_network(
            bridge, f"ip link add {self.cable} type veth peer name eth0 netns {self.pid}"
        )
        _run_in_network(bridge, f"ip link set {self.cable} master kiln0 up")
        _run_in_network(self.pid, f"ip addr add {self.address}/24 dev eth0")
        _run_in_network(self.pid, "ip link set eth0 up")
        _run_in_network(self.pid, f"ip route add default via {SUBNET}.1")

    def start(
        self,
        *command: str,
        cwd: Path | None = None,
        log: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        **env: str,
    ) -> subprocess.Popen[str]:
        """Start a command on the host. Its output goes to `log`, by default to a pipe."""
        prefixes = ("RAY_", "MLFLOW_", "KILN_", "AWS_", "DVC_")
        variables = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
        variables |= {
            "HOME": str(Path.home()) if self.name == "dev" else "/mnt",
            "PATH": f"{ENVIRONMENT}/bin:{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **env,
        }
        enter = ["nsenter", "-t", str(self.pid), "-m", "-u", "-n", "-p", f"--wd={cwd or '/mnt'}"]
        process = subprocess.Popen(
            [*enter, *command],
            env=variables,
            text=True,
            stdin=stdin,
            stdout=log.open("a") if log else subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.processes.append(process)
        return process

    def run(
        self, *command: str, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host and wait for it, up to ten minutes."""
        process = self.start(*command, cwd=cwd, **env)
        output, _ = process.communicate(timeout=1800)
        return subprocess.CompletedProcess(command, process.returncode, output)

    def cut(self) -> None:
        """Disconnect the host from the network."""
        _run_in_network(self.bridge, f"ip link set {self.cable} down")

    def heal(self) -> None:
        """Connect the host to the network again."""
        _run_in_network(self.bridge, f"ip link set {self.cable} up")

    def kill(self) -> None:
        """End all processes of the host at once, like a power cut."""
        self.init.kill()
        self.init.wait()
        for process in self.processes:
            process.wait()


class Network:
    """A bridge and the hosts on it."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        hosts = "".join(f"{SUBNET}.{11 + n} {name}\n" for n, name in enumerate(names))
        # As on many machines, the host's own name resolves to 127.0.1.1: gloo and NCCL must find
        # the right interface nevertheless.
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.hosts: dict[str, Host] = {}
        namespace = Path(f"/proc/{self.holder.pid}/ns/net")
        deadline = time.monotonic() + 60
        while namespace.readlink() == Path("/proc/self/ns/net").readlink():
            assert time.monotonic() < deadline, "unshare made no network namespace"
            time.sleep(0.01)
        _run_in_network(self.holder.pid, "ip link add kiln0 type bridge")
        _run_in_network(self.holder.pid, "ip link set kiln0 up")
        for n, name in enumerate(names, 1):
            hosts_file = folder / f"hosts-{name}"
            own_entry = hosts.replace(f"{SUBNET}.{10 + n} ", "127.0.1.1 ")
            hosts_file.write_text("127.0.0.1 localhost\n" + own_entry)
            self.hosts[name] = Host(name, n, self.holder.pid, hosts_file)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def down(self) -> None:
        for host in self.hosts.values():
            host.kill()
        self.holder.kill()
        self.holder.wait()


def _mounts(hosts_file: Path, hide_files: bool) -> list[str]:
    """Return shell commands that set up the files of a host."""
    commands = ["mount --make-rprivate /", f"mount --bind {hosts_file} /etc/hosts"]
    if hide_files:
        kept = "/run/kiln-env"
        commands += [f"mkdir -p {kept}", f"mount -t tmpfs tmpfs {kept}", f"mkdir {kept}/e"]
        commands += [f"mount --bind {ENVIRONMENT} {kept}/e"]
        for hidden in ("/tmp", "/var/tmp", "/dev/shm", "/mnt", CHECKOUT):
            # The checkout may lie in a folder that was hidden before it: create it again.
            commands += [f"mkdir -p {hidden}"]
            commands += [f"mount -t tmpfs -o size=4g,mode=1777 tmpfs {hidden}"]
        commands += [f"mkdir -p {ENVIRONMENT}", f"mount --bind {kept}/e {ENVIRONMENT}"]
    return commands


def _run_in_network(pid: int, command: str) -> None:
    """Run a command in the network namespace of a process."""
    subprocess.run(["nsenter", "-t", str(pid), "-n", *command.split()], check=True)
