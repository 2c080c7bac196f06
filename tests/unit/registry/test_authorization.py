"""The authorization hook of a server with basic auth, in MLflow's own Flask application."""

from __future__ import annotations

import importlib
import inspect
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from werkzeug.datastructures import Authorization

Call = Callable[..., str | None]
PASSWORD = "a-long-password"


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
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

    def make_call(
        user: str,
        route: str,
        method: str = "POST",
        request: dict[str, Any] | None = None,
        **parameters: Any,
    ) -> str | None:
        credentials = b64encode(f"{user}:{PASSWORD}".encode()).decode()
        path = f"/api/2.0/mlflow/{route}"
        headers = {"Authorization": f"Basic {credentials}"}
        content = {"json": parameters} if request is None else request
        with app.test_request_context(path, method=method, headers=headers, **content):
            reply = authenticate()
        if isinstance(reply, Authorization):
            return None
        assert reply.status_code == 403
        assert reply.json["error_code"] == "PERMISSION_DENIED"
        return str(reply.json["message"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BACKEND_STORE_URI_ENV_VAR, uri)
        yield make_call
    mlflow.set_registry_uri("")  # MLflow's handlers have set it for the whole process
    auth.store.engine.dispose()


ALIAS_CALLS = [
    ("registered-models/alias", "POST"),
    ("registered-models/alias", "DELETE"),
    ("registered-models/delete", "DELETE"),
    ("model-versions/delete", "DELETE"),
]
OTHER_CHANGES = [("registered-models/rename", "POST"), ("model-versions/set-tag", "POST")]


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
    for route, method in [*ALIAS_CALLS, *OTHER_CHANGES]:
        objection = call(user, route, method, name="task-history")
        assert objection == "task-history is a history: what is written there stays as it is"
    assert call("admin", "model-versions/delete", "DELETE", name="task-history") is None


@pytest.mark.parametrize(
    ("tags", "allowed"),
    [
        ([{"key": "kiln.move", "value": '{"account": "alice"}'}], True),
        ([{"key": "kiln.move", "value": '{"account": "bob"}'}], False),
        ([{"key": "kiln.move", "value": '{"account": null}'}], False),
        ([{"key": "kiln.move", "value": '{"account": "bob", "account": "alice"}'}], False),
        ([{"key": "kiln.move", "value": '{"account": "alice"}'}] * 2, False),
        ([{"key": "kiln.move", "value": "no JSON"}], False),
        ([{"key": "kiln.move", "value": "[]"}], False),
        ([{"key": "other", "value": '{"account": "alice"}'}], False),
        ([], False),
        ({"kiln.move": '{"account": "alice"}'}, False),
        (None, False),
    ],
)
def test_a_move_names_the_account_that_makes_it(call: Call, tags: object, allowed: bool) -> None:
    objection = call("alice", "model-versions/create", name="task-history", tags=tags)
    assert (objection is None) == allowed


def test_history_of_an_existing_model_is_created_by_the_administrator(call: Call) -> None:
    objection = call("alice", "registered-models/create", name="new-history")
    assert objection is not None
    assert objection.startswith("new-history is made by the administrator")
    assert call("admin", "registered-models/create", name="new-history") is None
    assert call("alice", "registered-models/create", name="absent-history") is not None
    assert call("alice", "registered-models/create", name="task-history") is None, "MLflow refuses"


def test_other_calls_are_left_to_mlflow(call: Call) -> None:
    assert call("ci", "registered-models/get", "GET", name="task") is None
    assert call("ci", "model-versions/search", name="task-history") is None
    assert call("ci", "model-versions/set-tag", name="task") is None
    assert call("ci", "runs/create", name="task") is None


BODY = json.dumps({"name": "task", "alias": "champion"})


@pytest.mark.parametrize(
    "request_",
    [
        {"data": BODY, "query_string": {"name": "other"}, "content_type": "application/json"},
        {"data": BODY, "query_string": {"name": "other"}, "content_type": "text/plain"},
        {"data": BODY, "content_type": "text/plain"},
        {"data": BODY, "content_type": "application/x-www-form-urlencoded"},
        {"data": BODY},
        {"query_string": {"name": "other", "alias": "champion"}},
        {"data": '{"name": "other", "name": "task"}', "content_type": "application/json"},
        {"data": json.dumps(BODY), "content_type": "application/json"},
        {"data": "[]", "content_type": "application/json"},
        {"data": "{}", "content_type": "application/json"},
        {"data": '{"name": ["task"]}', "content_type": "application/json"},
        {"data": b"\xff", "content_type": "application/json"},
    ],
    ids=[
        "query beside the body", "query beside a text", "text", "form", "no content type",
        "query alone", "name twice", "encoded twice", "list", "no name", "list of names",
        "no Unicode",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["DELETE", "POST"])
def test_arguments_that_could_be_read_in_two_ways_are_refused(
    call: Call, request_: dict[str, Any], method: str
) -> None:
    for user in ("ci", "alice"):
        assert call(user, "registered-models/alias", method, request_) is not None


@pytest.mark.parametrize("spelling", ["new_name", "newName"])
def test_a_rename_makes_no_history_and_leaves_none(call: Call, spelling: str) -> None:
    rename = "registered-models/rename"
    assert call("alice", rename, name="other", **{spelling: "free"}) is None
    for name, new_name in (("other", "new-history"), ("task", "free"), ("other", "task")):
        objection = call("alice", rename, name=name, **{spelling: new_name})
        assert objection is not None, (name, new_name)
        assert "histor" in objection
    assert call("alice", rename, name="other") == "this call needs one new_name, as text"
    both = {"json": {"name": "other", "new_name": "free", "newName": "task-history"}}
    assert call("alice", rename, request=both) == "this call needs one new_name, as text"


def test_calls_that_are_not_known_are_refused(call: Call) -> None:
    for route in ("registered-models/permissions/create", "model-versions/freeze"):
        assert call("alice", route, name="other") is not None
        assert call("admin", route, name="other") is None
