"""The authorization hook of a server with basic auth, in MLflow's own Flask application."""

from __future__ import annotations

import importlib
import inspect
from base64 import b64encode
from collections.abc import Callable, Iterator

import pytest
from mlflow import MlflowClient
from werkzeug.datastructures import Authorization

Call = Callable[..., str | None]
PASSWORD = "a-long-password"


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("mlflow.server.auth", "_get_request_param", ("name",)),
        ("mlflow.server.handlers", "_get_model_registry_store", ()),
    ],
)
def test_private_names_of_mlflow_exist(module: str, name: str, arguments: tuple[str, ...]) -> None:
    advice = (
        f"MLflow has changed {module}.{name}, a private name that "
        "components/registry/server/authorization.py needs; adapt the module to this version"
    )
    function = getattr(importlib.import_module(module), name, None)
    assert callable(function), advice
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        pytest.fail(advice)


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """A function that makes a call as a user and returns the reason of a refusal, if any.

    The server has the models `task`, with a history, and `other`, without one.
    """
    from mlflow.server import app, auth
    from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR

    from components.registry.server.authorization import authenticate

    folder = tmp_path_factory.mktemp("server")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    for name in ("task", "task-history", "other", "new"):
        client.create_registered_model(name)
    auth.store.init_db(f"sqlite:///{folder / 'auth.db'}")
    auth.store.create_user("admin", PASSWORD, is_admin=True)
    for user, permission in (("ci", "READ"), ("alice", "EDIT")):
        auth.store.create_user(user, PASSWORD)
        auth.store.grant_user_permission(user, "registered_model", "task-history", permission)

    def make_call(user: str, route: str, method: str = "POST", **parameters: str) -> str | None:
        credentials = b64encode(f"{user}:{PASSWORD}".encode()).decode()
        path = f"/api/2.0/mlflow/{route}"
        headers = {"Authorization": f"Basic {credentials}"}
        with app.test_request_context(path, method=method, json=parameters, headers=headers):
            reply = authenticate()
        if isinstance(reply, Authorization):
            return None
        assert reply.status_code == 403
        assert reply.json["error_code"] == "PERMISSION_DENIED"
        return str(reply.json["message"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BACKEND_STORE_URI_ENV_VAR, uri)
        yield make_call
    auth.store.engine.dispose()


ALIAS_CALLS = [
    ("registered-models/alias", "POST"),
    ("registered-models/alias", "DELETE"),
    ("registered-models/rename", "POST"),
    ("registered-models/delete", "DELETE"),
    ("model-versions/delete", "DELETE"),
]


@pytest.mark.parametrize(("route", "method"), ALIAS_CALLS)
def test_aliases_are_moved_by_those_who_may_add_to_the_history(
    call: Call, route: str, method: str
) -> None:
    objection = call("ci", route, method, name="task")
    assert objection == "aliases of task are moved by those who may add to task-history"
    assert call("alice", route, method, name="task") is None
    assert call("admin", route, method, name="task") is None
    assert call("ci", route, method, name="other") is None, "it has no history"


@pytest.mark.parametrize("user", ["ci", "alice"])
def test_recorded_moves_cannot_be_changed(call: Call, user: str) -> None:
    for route, method in [*ALIAS_CALLS, ("model-versions/set-tag", "POST")]:
        objection = call(user, route, method, name="task-history")
        assert objection == "task-history is a history: what is written there stays as it is"
    assert call(user, "model-versions/create", name="task-history") is None
    assert call("admin", "model-versions/delete", "DELETE", name="task-history") is None


def test_history_of_an_existing_model_is_created_by_the_administrator(call: Call) -> None:
    objection = call("alice", "registered-models/create", name="new-history")
    assert objection is not None
    assert objection.startswith("new-history is made by the administrator")
    assert call("admin", "registered-models/create", name="new-history") is None
    assert call("alice", "registered-models/create", name="absent-history") is None
    assert call("alice", "registered-models/create", name="task-history") is None, "MLflow refuses"


def test_other_calls_are_left_to_mlflow(call: Call) -> None:
    assert call("ci", "registered-models/get", "GET", name="task") is None
    assert call("ci", "model-versions/search", name="task-history") is None
    assert call("ci", "model-versions/set-tag", name="task") is None
    assert call("ci", "registered-models/alias") is None, "MLflow refuses a call without a name"
    assert call("ci", "runs/create", name="task") is None
