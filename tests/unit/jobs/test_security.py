"""Checks of addresses, tokens and authentication of clusters."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.console import echo
from components.errors import UserError
from components.jobs.security import check_address, check_authentication, read_token
from tests.conftest import make_certificate


@pytest.fixture(autouse=True)
def no_token_of_a_local_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variable that a local Ray leaves in the environment of the process."""
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)


@pytest.mark.parametrize(
    "address",
    ["https://head:8265", "http://localhost:8265", "http://127.0.0.1:8265/", "http://[::1]:8265"],
)
def test_https_and_loopback_addresses_are_accepted(address: str) -> None:
    assert check_address(address, trust_network=False) == address.rstrip("/")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://head:8265", "plain http would show the token"),
        ("http://10.0.0.1:8265", "plain http would show the token"),
        ("http://localhost.evil.example:8265", "plain http would show the token"),
        ("head:8265", "the dashboard's address is needed"),
        ("ray://head:10001", "the dashboard's address is needed"),
        ("https://me:hidden@head:8265", "has a password in it"),
        ("ftp://me:hidden@head:8265", "the dashboard's address is needed"),
        ("me:hidden@head:8265", "the dashboard's address is needed"),
    ],
)
def test_other_addresses_are_refused_without_showing_passwords(address: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        check_address(address, trust_network=False)
    assert "hidden" not in str(caught.value)


def test_plain_http_is_accepted_on_a_trusted_network() -> None:
    assert check_address("http://head:8265", trust_network=True) == "http://head:8265"


def test_token_file_that_others_can_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_token() is None
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("t0ken\n")
    path.chmod(0o640)
    with pytest.raises(UserError, match=f"mode 0640.*chmod 600 {path}"):
        read_token()
    path.chmod(0o600)
    assert read_token() == "t0ken"


def test_token_of_a_file_is_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "token"
    path.write_text("from-a-file-0815\n")
    path.chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    assert read_token() == "from-a-file-0815"
    echo("the head refuses from-a-file-0815")
    assert capsys.readouterr().out == "the head refuses ***\n"


def test_token_comes_from_the_environment_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no such file"):
        read_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    assert read_token() == "another"


class Dashboard(http.server.BaseHTTPRequestHandler):
    """Answers as the head of a cluster does when asked for its authentication mode."""

    mode = "disabled"

    def do_GET(self) -> None:
        body = json.dumps({"authentication_mode": self.mode}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_cluster_without_authentication_is_refused(
    dashboard: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{dashboard.server_port}"
    with pytest.raises(UserError, match=r"token authentication is disabled.*--insecure"):
        check_authentication(address, insecure=False)
    check_authentication(address, insecure=True)
    monkeypatch.setattr(Dashboard, "mode", "token")
    check_authentication(address, insecure=False)


def test_unreachable_cluster_is_an_error() -> None:
    with pytest.raises(UserError, match="does not answer"):
        check_authentication("http://127.0.0.1:9", insecure=True)


def test_tls_certificate_is_verified(
    dashboard: http.server.HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.pem"
    certificate = tmp_path / "certificate.pem"
    make_certificate(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    dashboard.socket = context.wrap_socket(dashboard.socket, server_side=True)
    monkeypatch.setattr(Dashboard, "mode", "token")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    address = f"https://localhost:{dashboard.server_port}"
    with pytest.raises(UserError, match="certificate cannot be verified"):
        check_authentication(address, insecure=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    check_authentication(address, insecure=False)
