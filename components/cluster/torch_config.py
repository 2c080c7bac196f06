"""Ray Train's process group on the interface that carries the node's Ray traffic."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

import psutil
import ray.util
from ray.train.torch import TorchConfig

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


def _backend(base: type) -> type:
    class OnClusterInterface(base):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(use_cluster_interface)
            super().on_start(worker_group, backend_config)

    return OnClusterInterface


@dataclass
class ClusterTorchConfig(TorchConfig):  # type: ignore[misc]
    """`TorchConfig` whose workers choose the interface before the process group forms."""

    @property
    def backend_cls(self) -> type:
        return _backend(super().backend_cls)
