"""What a store could not take is sent later, once, and only to that store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from components.tracking import spool, store


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(spool, "FOLDER", tmp_path / "spool")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return store.connect()


def metrics(steps: range) -> list[Metric]:
    return [Metric("loss", 1 / step, 1000 + step, step) for step in steps]


def test_what_was_kept_is_sent_once_and_the_run_ended(client: Any) -> None:
    run_id = client.create_run(client.create_experiment("e")).info.run_id
    client.log_batch(run_id, metrics=metrics(range(1, 4)))  # of these the reply was lost
    spool.keep("http://user:secret@host", run_id, metrics(range(2, 7)), "FINISHED")
    assert "secret" not in (spool.FOLDER / f"{run_id}.json").read_text()
    assert spool.replay(client, "http://elsewhere") == []
    assert spool.replay(client, "http://user:secret@host") == [run_id]
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == [1, 2, 3, 4, 5, 6]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert spool.replay(client, "http://user:secret@host") == []


def test_what_fails_again_is_kept(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = client.create_run(client.create_experiment("e")).info.run_id
    spool.keep("here", run_id, metrics(range(1, 3)), "FINISHED")

    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("down")

    with monkeypatch.context() as patch:
        patch.setattr(client, "log_batch", refuse)
        assert spool.replay(client, "here") == []
    assert spool.replay(client, "here") == [run_id]
