"""Process groups on the interface that carries the node's Ray traffic."""

from __future__ import annotations

import os
import socket

import psutil
import ray.util

_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an IP address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.family in (socket.AF_INET, socket.AF_INET6) and a.address.split("%")[0] == address for a in addresses):
            return name
    return None


def use_cluster_interface() -> None:
    """Sets what gloo and NCCL listen on, unless the site has set it.

    Left alone, gloo takes the address that the host's own name resolves to: often 127.0.0.1, where no other node finds it.
    """
    name = interface_of(ray.util.get_node_ip_address())
    for variable in _VARIABLES if name else ():
        os.environ.setdefault(variable, str(name))
