"""The address of the store, and messages for a server's refusals."""

from __future__ import annotations

import socket

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, PERMISSION_DENIED

from components.errors import UserError
from components.tracking import store


def test_address_without_a_server_is_the_embedded_store(monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.get_uri() == store.EMBEDDED_URI
    assert not store.uses_server()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://host:5000")
    assert store.get_uri() == "https://host:5000"
    assert store.uses_server()


def test_messages_do_not_contain_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@host:5000/path")
    assert store.get_redacted_uri() == "http://user:***@host:5000/path"


def test_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://user:secret@127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(UserError, match=r"tracking server http://user:.* does not answer") as e:
            store.connect()
    assert "secret" not in str(e.value)


def test_denial_names_the_user_and_the_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ci")
    with (
        pytest.raises(
            UserError, match="http://host does not let user 'ci' move it: that is for promoters"
        ),
        store.explain_denial("move it", "promoters"),
    ):
        raise MlflowException("no", error_code=PERMISSION_DENIED)


def test_other_errors_are_not_explained_as_denials() -> None:
    with (
        pytest.raises(MlflowException, match="broken"),
        store.explain_denial("move it", "promoters"),
    ):
        raise MlflowException("broken", error_code=INTERNAL_ERROR)


def test_experiment_is_created_once_and_refused_if_deleted(client: MlflowClient) -> None:
    experiment_id = store.ensure_experiment(client, "deleted")
    assert store.ensure_experiment(client, "deleted") == experiment_id
    client.delete_experiment(experiment_id)
    with pytest.raises(UserError, match=f"'deleted' was deleted .*--experiment-id {experiment_id}"):
        store.ensure_experiment(client, "deleted")
