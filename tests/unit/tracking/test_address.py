"""Addresses of a tracking store that cannot be used are refused within seconds."""

from __future__ import annotations

import http.server
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import sqlalchemy

from components.errors import UserError
from components.tracking import address, store


def refusal(uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the message of the connection to a store, which must fail without a long wait."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        store.connect()
    assert time.monotonic() - start < 8
    return str(caught.value)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("localhost:5000", "write http://localhost:5000 "),
        ("mlflow:5000", "write http://mlflow:5000 "),
        ("10.0.0.1:5000/mlflow", "write http://10.0.0.1:5000/mlflow "),
        ("[::1]:5000", "write http://[::1]:5000 "),
        ("http://", "names no host"),
        ("http:/host", "names no host"),
        ("http://:5000", "names no host"),
        ("http://host:five", "a port is a number"),
        ("http://[::1", "an IPv6 address stands in brackets"),
        ("htp://host:5000", "htp: is not known"),
        ("postgres://user@host/db", "postgres: is not known"),
        ("C:\\mlruns", "c: is not known"),
        (" http://host", "a space or a quotation mark"),
        ("'http://host'", "a space or a quotation mark"),
        ("/data/mlruns", "write sqlite:////data/mlruns/mlflow.db"),
        ("file:///data/mlruns", "write sqlite:////data/mlruns/mlflow.db"),
        ("mlflow.db", f"write sqlite:///{Path.cwd()}/mlflow.db"),
        ("/data/mlflow.db", "write sqlite:////data/mlflow.db"),
        ("./mlruns", f"write sqlite:///{Path.cwd()}/mlruns/mlflow.db"),
        ("sqlite://mlflow.db", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////no/such/folder/mlflow.db", "there is no folder /no/such/folder"),
        ("sqlite:////proc/mlflow.db", "/proc/mlflow.db cannot be opened"),
        ("http://no-such-host.invalid:5000", "does not answer"),
        ("postgresql://user@no-such-host.invalid/db", "no-such-host.invalid:5432 does not answer"),
    ],
)
def test_address_that_cannot_be_used_is_refused_with_advice(
    uri: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(uri, monkeypatch)
    assert uri in message
    assert reason in message
    assert "unset MLFLOW_TRACKING_URI to use the embedded mlflow.db" in message


def test_refused_database_does_not_create_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal(f"sqlite:///{tmp_path}/mistyped/mlflow.db", monkeypatch)
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_no_database_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("notes " * 200)
    message = refusal(f"sqlite:///{tmp_path}/notes.txt", monkeypatch)
    assert "notes.txt cannot be opened (file is not a database)" in message
    assert "is a folder" in refusal(f"sqlite:///{tmp_path}", monkeypatch)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o500)
    assert "you may not write" in refusal(f"sqlite:///{tmp_path}/mlflow.db", monkeypatch)


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:pw1#pw2@no-such-host.invalid",
        "postgresql://user:pw1/pw2@no-such-host.invalid/db",
        "http://user:pw1:pw2@[::1",
        "user:pw1@pw2@host:5000",
    ],
)
def test_message_has_no_password(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(uri, monkeypatch)
    assert "pw1" not in message
    assert "pw2" not in message
    assert "user:***@" in message


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("Failed to parse: http://ci:pw1@pw2@host/api"),
        sqlalchemy.exc.ArgumentError("Could not parse 'postgresql+psycopg://u:pw1/pw2@h/db'"),
        RuntimeError("connection failed: password=pw1 host=h"),
        ValueError("invalid literal for int() with base 10: 'pw1@pw2'"),
        ImportError("No module named 'x' for mysql://u:pw1@h"),
    ],
)
def test_error_of_another_library_is_shown_without_secrets(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(store, "check_address", lambda: None)
    monkeypatch.setattr(store.MlflowClient, "search_experiments", refuse)
    message = refusal("http://user:pw1@pw2@host", monkeypatch)
    assert "pw1" not in message
    assert "pw2" not in message
    assert "***" in message.replace("http://user:***@host", "")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_embedded_store_is_created_for_its_owner_only(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "EMBEDDED_URI", f"sqlite:///{tmp_path}/mlflow.db")
    before = os.umask(umask)
    try:
        address.check_address()
    finally:
        os.umask(before)
    assert (tmp_path / "mlflow.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "mlartifacts").stat().st_mode & 0o777 == 0o700


def test_database_that_the_user_named_follows_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shared.db")
    before = os.umask(0o027)
    try:
        address.check_address()
    finally:
        os.umask(before)
    assert [path.name for path in tmp_path.iterdir()] == ["shared.db"]
    assert (tmp_path / "shared.db").stat().st_mode & 0o777 == 0o640


def test_database_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        uri = f"postgresql+nosuchdriver://u@127.0.0.1:{server.getsockname()[1]}/db"
        assert "cannot be used: " in refusal(uri, monkeypatch)


@pytest.fixture
def serve() -> Iterator[Callable[[int, bytes], str]]:
    """A function that starts a server which answers every request alike."""
    servers = []

    def start(status: int, body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<html>a web page</html>", "is no MLflow server (HTTP 200 for /health)"),
        (404, b"", "is no MLflow server (HTTP 404 for /health)"),
        (401, b"", "does not accept the name and password of an unnamed user"),
        (503, b"", "answers HTTP 503 (Service Unavailable)"),
    ],
)
def test_answer_of_something_else_is_explained(
    status: int,
    body: bytes,
    reason: str,
    serve: Callable[[int, bytes], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert reason in refusal(serve(status, body), monkeypatch)


def test_embedded_store_is_not_advised_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "EMBEDDED_URI", "sqlite:////no/such/folder/mlflow.db")
    with pytest.raises(UserError) as caught:
        address.check_address()
    assert "unset" not in str(caught.value)
