"""Lost replies of the server: the client repeats the call, and the registry holds one version."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from components.registry import history, model_versions
from components.tracking import store
from pipelines import promote as command
from tests.integration.versions import NAME, evaluate_version, register_version


class Proxy(ThreadingHTTPServer):
    """A proxy that drops the first reply to requests whose path contains `drop_path`.

    `num_requests` counts these requests, `num_dropped` the replies that were dropped.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.drop_path = ""
        self.num_dropped = 0
        self.num_requests = 0
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {
            k: v
            for k, v in self.headers.items()
            if k.lower() not in ("host", "content-length", "connection")
        }
        reply = requests.request(
            self.command, self.server.upstream + self.path, data=body, headers=headers, timeout=60
        )
        if self.server.drop_path and self.server.drop_path in self.path:
            self.server.num_requests += 1
            if not self.server.num_dropped:
                assert reply.ok, reply.text
                self.server.num_dropped += 1
                self.close_connection = True
                return
        self.send_response(reply.status_code)
        for key, value in reply.headers.items():
            if key.lower() not in (
                "content-length",
                "transfer-encoding",
                "content-encoding",
                "connection",
            ):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(reply.content)))
        self.end_headers()
        self.wfile.write(reply.content)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = forward  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    proxy = Proxy(server)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield proxy
    proxy.shutdown()
    proxy.server_close()


def test_lost_replies_leave_one_version_and_one_move(
    proxy: Proxy, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address)
    monkeypatch.chdir(home)
    client = store.connect()
    first = register_version(client, seed=1)
    proxy.drop_path = "model-versions/create"
    receipt = register_version(client, seed=2)
    assert (proxy.num_dropped, proxy.num_requests) == (1, 2), "the client repeated the call"
    versions = model_versions.list_versions(client, NAME)
    assert [int(v.version) for v in versions] == [first.version, receipt.version]
    assert [v.tags["kiln.sha256"] for v in versions] == [first.sha256, receipt.sha256]
    assert register_version(client, seed=2) == receipt
    evaluate_version(client, first, 1600)
    evaluate_version(client, receipt, 1900)
    command.promote(first.version, "before")
    proxy.num_dropped = 0
    proxy.num_requests = 0
    command.promote(receipt.version, "its reply is lost")
    assert (proxy.num_dropped, proxy.num_requests) == (1, 2)
    assert [recorded.move.target for recorded in history.read_moves(client, NAME)] == [
        first.version,
        receipt.version,
    ]
    command.rollback("back")
    assert model_versions.get_aliases(client, NAME) == {"champion": first.version}
