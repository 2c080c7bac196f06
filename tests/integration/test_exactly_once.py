"""A reply that is lost on its way back: the client asks again, and the registry still holds one version."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from components.registry import history, model_versions
from components.tracking import store
from pipelines import promote as verb
from tests.integration.versions import NAME, judge, make


class Proxy(ThreadingHTTPServer):
    """Forwards everything; of the first request to `losing` it keeps the reply to itself and hangs up."""

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.losing, self.lost, self.seen = upstream, "", 0, 0
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length", "connection")}
        reply = requests.request(self.command, self.server.upstream + self.path, data=body, headers=kept, timeout=60)
        if self.server.losing and self.server.losing in self.path:
            self.server.seen += 1
            if not self.server.lost:
                assert reply.ok, reply.text
                self.server.lost += 1
                self.close_connection = True
                return
        self.send_response(reply.status_code)
        for key, value in reply.headers.items():
            if key.lower() not in ("content-length", "transfer-encoding", "content-encoding", "connection"):
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


def test_lost_replies_leave_one_version_and_one_move(proxy: Proxy, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address)
    monkeypatch.chdir(home)
    client = store.connect()
    first = make(client, seed=1)
    proxy.losing = "model-versions/create"
    receipt = make(client, seed=2)
    assert (proxy.lost, proxy.seen) == (1, 2), "the reply was lost and the client asked again"
    versions = model_versions.versions(client, NAME)
    assert [int(v.version) for v in versions] == [first.version, receipt.version]
    assert [v.tags["kiln.sha256"] for v in versions] == [first.sha256, receipt.sha256]
    assert make(client, seed=2) == receipt
    judge(client, first, 1600)
    judge(client, receipt, 1900)
    verb.promote(first.version, "before")
    proxy.lost = proxy.seen = 0
    verb.promote(receipt.version, "its reply is lost")
    assert (proxy.lost, proxy.seen) == (1, 2)
    assert [entry.move.target for entry in history.read(client, NAME)] == [first.version, receipt.version]
    verb.rollback("back")
    assert model_versions.aliases(client, NAME) == {"champion": first.version}
