"""Look-ups of versions in a real store, with names and numbers that it does not have."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components.errors import UserError
from components.registry import model_versions
from components.tracking import store


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of a store with one version of the model `task` and one of `it"s`."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    client = store.connect()
    for name in ("task", 'it"s'):
        client.create_registered_model(name)
        client.create_model_version(name, source="/tmp/x", await_creation_for=0)
    return client


def test_look_ups_of_missing_things_and_of_hostile_names(
    client: MlflowClient, tmp_path: Path
) -> None:
    for number in (0, -1, 2, 2**31, 2**70):
        with pytest.raises(UserError, match=rf"task version {number} is not in .* there: 1$"):
            model_versions.get(client, "task", number)
    with pytest.raises(UserError, match="there is no registered model 'other' in this registry"):
        model_versions.get_aliases(client, "other")
    assert [v.name for v in model_versions.list_versions(client, 'it"s')] == ['it"s']
    for name in ("it's", "x' or name = 'task", "both'\""):
        with pytest.raises(UserError, match="cannot be the name of a registered model: it has a"):
            model_versions.list_versions(client, name)
        with pytest.raises(UserError, match="cannot be the name of a registered model: it has a"):
            model_versions.find_by_digest(client, name, "ab")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("ALTER TABLE model_versions RENAME TO away")
        database.execute("ALTER TABLE registered_models RENAME TO away_too")
    with pytest.raises(MlflowException, match="no such table"):
        model_versions.get(client, "task", 1)
    with pytest.raises(MlflowException, match="no such table"):
        model_versions.get_aliases(client, "task")
