"""Kiln's rules for names, compared with what a real MLflow store takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel

from components.params.names import HISTORY_SUFFIX, MAX_NAME_LENGTH
from components.registry import model_versions
from components.registry.history import history_model_name
from components.registry.server import roles
from components.tracking import store
from tests.unit.params.test_names import ALIASES, NAMES, RESERVED_BY_MLFLOW


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    return store.connect()


def test_mlflow_takes_the_names_that_kiln_takes(client: MlflowClient) -> None:
    for name in NAMES:
        for model in (name, history_model_name(name)):
            client.create_registered_model(model)
            client.create_model_version(model, source="/tmp/x", await_creation_for=0)
            assert [v.name for v in model_versions.list_versions(client, model)] == [model]
    for alias in ALIASES:
        client.set_registered_model_alias(NAMES[0], alias, "1")
    assert set(model_versions.get_aliases(client, NAMES[0])) == set(ALIASES)
    for alias in RESERVED_BY_MLFLOW:
        with pytest.raises(MlflowException, match="reserved"):
            client.set_registered_model_alias(NAMES[0], alias, "1")


def test_longest_name_fits_into_the_columns_of_mlflow_with_its_suffixes() -> None:
    from mlflow.server.auth.db.models import SqlRole, SqlRolePermission  # imports the whole server

    models = (SqlRegisteredModel.name.type, SqlRolePermission.resource_pattern.type)
    assert history_model_name("x").removeprefix("x") == HISTORY_SUFFIX
    for column in models:
        assert MAX_NAME_LENGTH + len(HISTORY_SUFFIX) <= column.length
    assert MAX_NAME_LENGTH + len(f"-{roles.PROMOTERS}") == SqlRole.name.type.length
