"""The spool: metrics are sent once, when the store answers, and only to their own store."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from components.tracking import spool, store


def metrics(steps: range) -> list[Metric]:
    return [Metric("loss", 1 / step, 1000 + step, step) for step in steps]


def test_replay_sends_missing_metrics_once_and_ends_the_run(client: MlflowClient) -> None:
    run_id = client.create_run(store.ensure_experiment(client, "spool")).info.run_id
    client.log_batch(run_id, metrics=metrics(range(1, 4)))  # the replies were lost
    spool.save("http://user:secret@host", run_id, metrics(range(2, 7)), "FINISHED")
    assert "secret" not in (spool.FOLDER / f"{run_id}.json").read_text()
    assert spool.replay(client, "http://elsewhere") == []
    assert spool.replay(client, "http://user:secret@host") == [run_id]
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == [1, 2, 3, 4, 5, 6]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert spool.replay(client, "http://user:secret@host") == []


def test_saved_metrics_are_for_their_owner_and_survive_a_new_password(
    client: MlflowClient,
) -> None:
    run_id = client.create_run(store.ensure_experiment(client, "spool")).info.run_id
    path = spool.save("http://ci:secret@host", run_id, metrics(range(1, 3)), "FINISHED")
    assert path.stat().st_mode & 0o777 == 0o600
    guess = hashlib.sha256(b"http://ci:secret@host").hexdigest()
    assert guess not in path.read_text()
    assert spool.replay(client, "http://other:changed@host") == []
    assert spool.replay(client, "http://ci:changed@host") == [run_id]


def test_replay_keeps_the_file_if_sending_fails(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = client.create_run(store.ensure_experiment(client, "spool")).info.run_id
    spool.save("here", run_id, metrics(range(1, 3)), "FINISHED")

    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("down")

    with monkeypatch.context() as patch:
        patch.setattr(client, "log_batch", refuse)
        assert spool.replay(client, "here") == []
    assert spool.replay(client, "here") == [run_id]
