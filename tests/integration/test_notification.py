"""MLflow's own webhooks notify of promotions, on a server."""

from __future__ import annotations

import json
import queue
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.tracking import store
from pipelines import promote as command
from tests.integration.conftest import Server
from tests.integration.versions import NAME, evaluate_version, register_version


def test_webhook_receives_a_promotion_and_its_reason(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: queue.Queue[dict[str, Any]] = queue.Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    server = Server(tmp_path)
    # By default MLflow sends webhooks to public https addresses only.
    server.start(MLFLOW_WEBHOOK_ALLOWED_SCHEMES="http", MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS="true")
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        monkeypatch.chdir(home)
        client = store.connect()
        address = f"http://127.0.0.1:{receiver.server_address[1]}/hook"
        client.create_webhook(
            "promotions", address, ["model_version_alias.created", "model_version.created"]
        )
        receipt = register_version(client, seed=1)
        evaluate_version(client, receipt, 1900)
        command.promote(receipt.version, "a webhook listens")
        messages = [received.get(timeout=300) for _ in range(3)]
    finally:
        server.signal(signal.SIGKILL)
        receiver.shutdown()
    data = {(message["entity"], message["data"]["name"]): message["data"] for message in messages}
    alias = data["model_version_alias", NAME]
    assert (alias["alias"], alias["version"]) == ("champion", str(receipt.version))
    move = json.loads(data["model_version", f"{NAME}-history"]["tags"]["kiln.move"])
    assert (move["reason"], move["target"]) == ("a webhook listens", receipt.version)
