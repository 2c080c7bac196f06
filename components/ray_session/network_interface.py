"""Process groups on the network interface that carries the node's Ray traffic."""

from __future__ import annotations

import os
import socket

import psutil
import ray.util

_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def find_interface(address: str) -> str | None:
    """Return the name of this machine's network interface that has an IP address, if any."""
    for name, addresses in psutil.net_if_addrs().items():
        # psutil appends the zone to link-local IPv6 addresses: fe80::1%eth0.
        if address in {a.address.split("%")[0] for a in addresses if a.family in _FAMILIES}:
            return name
    return None


def use_cluster_interface() -> None:
    """Make gloo and NCCL use the interface with this node's Ray address.

    Variables that the site has set are kept. By default gloo takes the address to which the
    host's own name resolves: often 127.0.0.1, which no other node can reach.
    """
    name = find_interface(ray.util.get_node_ip_address())
    if name:
        for variable in _VARIABLES:
            os.environ.setdefault(variable, name)
