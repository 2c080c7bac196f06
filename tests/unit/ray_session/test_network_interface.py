"""The network interface that process groups use."""

from __future__ import annotations

import os
import socket

import psutil
import pytest
import ray.util

from components.ray_session import network_interface


def test_interface_is_found_by_its_address() -> None:
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if address.family == socket.AF_INET:
                assert network_interface.find_interface(address.address) == name
    assert network_interface.find_interface("192.0.2.1") is None


def test_cluster_interface_is_used_unless_the_site_sets_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    network_interface.use_cluster_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen"
    assert os.environ.pop("NCCL_SOCKET_IFNAME") == "lo"
