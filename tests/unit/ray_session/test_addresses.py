"""`RAY_ADDRESS`, and addresses that travel to the nodes of a cluster."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from components.errors import UserError
from components.ray_session import addresses
from components.ray_session.addresses import (
    check_ray_address,
    forwarded_addresses,
    get_ray_address,
    is_loopback,
)

# The beginning of what a server of HTTP/2 sends: a SETTINGS frame without content.
GRPC_ANSWER = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


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


def test_passwords_with_special_characters_are_not_forwarded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:hid#den@host/db")
    assert "MLFLOW_TRACKING_URI" not in forwarded_addresses()


@contextmanager
def listen(answer: bytes) -> Iterator[str]:
    """Yield the address of a server that sends `answer` after the first bytes that it gets."""

    def serve() -> None:
        with suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.recv(24)
                connection.sendall(answer)
                connection.recv(64)
                time.sleep(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def refusal(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAY_ADDRESS", address)
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        check_ray_address()
    assert time.monotonic() - start < 8
    assert f"RAY_ADDRESS={address}" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("address", ["", "local", "auto", None])
def test_addresses_without_a_host_are_left_to_ray(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    check_ray_address()
    assert get_ray_address() == (address if address == "auto" else None)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_cluster_that_answers_is_accepted(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with listen(GRPC_ANSWER) as address:
        monkeypatch.setenv("RAY_ADDRESS", scheme + address)
        check_ray_address()


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n", "answers, but it is not Ray"),
        (b"-ERR unknown command 'PRI'\r\n", "answers, but it is not Ray"),
        (b"", "gives no answer within"),
    ],
    ids=["web server", "redis", "silence"],
)
def test_port_of_something_else_is_refused(
    scheme: str, answer: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_TIMEOUT_S", 0.3)
    with listen(answer) as address:
        assert reason in refusal(scheme + address, monkeypatch)


def test_closed_port_and_unknown_host_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    message = refusal(f"127.0.0.1:{port}", monkeypatch)
    assert f"127.0.0.1:{port} does not answer (Connection refused); check the address" in message
    assert "unset RAY_ADDRESS to use this machine" in message
    message = refusal("ray://no-such-host.invalid:10001", monkeypatch)
    assert "no-such-host.invalid:10001 has a name that does not resolve" in message


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("head", "host and port are needed"),
        ("head:", "host and port are needed"),
        (":6379", "host and port are needed"),
        ("ray://head", "host and port are needed"),
        ("ray://head:port", "host and port are needed"),
        ("ray://head:10001/path", "host and port are needed"),
        ("head:99999", "host and port are needed"),
        (" head:6379", "host and port are needed"),
        ("http://head:8265", "this is a dashboard, which `pipelines.submit --address"),
        ("tcp://head:6379", "the scheme tcp is not known"),
    ],
)
def test_malformed_address_is_refused(
    address: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(address, monkeypatch)
    assert reason in message
    assert "known: HOST:6379" in message
