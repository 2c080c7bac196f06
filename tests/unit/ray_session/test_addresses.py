"""Addresses that travel to the nodes of a cluster."""

from __future__ import annotations

import pytest

from components.ray_session.addresses import forwarded_addresses, is_loopback


def test_addresses_are_forwarded_without_secrets_and_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("KILN_STORAGE", "/shared/kiln")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    assert forwarded_addresses() == {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "KILN_STORAGE": "/shared/kiln",
    }
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hidden@mlflow:5000")
    assert "MLFLOW_TRACKING_URI" not in forwarded_addresses()


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.53", True), ("::1", True), ("10.0.0.1", False), ("h", False)],
)
def test_loopback_hosts_are_recognized(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
