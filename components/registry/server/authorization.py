"""The `authorization_function` of an MLflow server: basic auth, and Kiln's rules for registries.

In MLflow, a user who may add versions to a registered model may also move its aliases and rename
it, because all of these are `update` on the model. With this function, only users who may add
versions to `<name>-history`, and so record a move, may move an alias of `<name>`. The recorded
moves themselves cannot be changed, and a move names the account that makes it. Registered models
without a history keep MLflow's rules.

The rules apply to calls that change a registered model or a version. They fail closed: a call that
this module does not know is refused, and so is one whose arguments could be read in two ways. In
MLflow 3.17 the handler of a DELETE reads its body, whatever the content type, while the check of
permissions reads the query unless the content type is JSON. So arguments must be in a JSON body,
and there only.

`authorization_function` is MLflow's documented hook
(https://mlflow.org/docs/latest/self-hosting/security/custom/). `docs/how-to/server.md` explains how
to set it.

This is the only module that uses a private name of MLflow: `_get_model_registry_store`. The hook
has to ask the registry of the server that it runs in, and MLflow has no public function for it.
`tests/unit/registry/test_authorization.py` fails when it changes. The server does not start with a
version of MLflow whose calls have not been looked through.
"""

from __future__ import annotations

import json
import re
from typing import Any

import mlflow
from flask import Response, jsonify, request
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from mlflow.server.auth.permissions import RESOURCE_TYPE_REGISTERED_MODEL
from mlflow.server.auth.requirements import Requirement
from mlflow.server.handlers import _get_model_registry_store
from werkzeug.datastructures import Authorization

from components.records.moves import MOVE_TAG
from components.registry import HISTORY_SUFFIX

_CHECKED_MLFLOW = "3.17."
if not mlflow.__version__.startswith(_CHECKED_MLFLOW):
    raise ImportError(
        f"MLflow is {mlflow.__version__}; the authorization of Kiln was checked with "
        f"{_CHECKED_MLFLOW}* only. Install that version (`make setup`), or look through MLflow's "
        "calls and run tests/integration/test_servers.py with the new one"
    )

Call = tuple[str, str]
"""A call of the registry: `registered-models` or `model-versions`, and what follows in the path."""

_ROUTE = re.compile(r"/mlflow/(registered-models|model-versions)/(.+)$")
_READ_METHODS = ("GET", "HEAD", "OPTIONS")
_READS = {
    ("registered-models", "search"),
    ("registered-models", "get-latest-versions"),
    ("model-versions", "search"),
}
_CREATE_MODEL = ("registered-models", "create")
_RENAME_MODEL = ("registered-models", "rename")
_CREATE_VERSION = ("model-versions", "create")
# Calls that move an alias, or that delete or rename the model or version that it belongs to.
_ALIAS_CALLS = {
    ("registered-models", "alias"),
    _RENAME_MODEL,
    ("registered-models", "delete"),
    ("model-versions", "delete"),
}
_OTHER_WRITES = {
    ("registered-models", "update"),
    ("registered-models", "set-tag"),
    ("registered-models", "delete-tag"),
    ("model-versions", "update"),
    ("model-versions", "set-tag"),
    ("model-versions", "delete-tag"),
    ("model-versions", "transition-stage"),
}
_KNOWN_WRITES = {_CREATE_MODEL, _CREATE_VERSION} | _ALIAS_CALLS | _OTHER_WRITES


class _UnclearError(Exception):
    """The arguments of a request could be read in more than one way."""


def authenticate() -> Authorization | Response:
    """Return the user of the current request, or the response that refuses it.

    MLflow calls this during each request and checks its own permissions afterwards.
    """
    user: Authorization | Response = auth.authenticate_request_basic_auth()
    if isinstance(user, Response) or request.method in _READ_METHODS:
        return user
    route = _ROUTE.search(request.path)
    if route is None:
        return user
    call = (route[1], route[2].rstrip("/"))
    if call in _READS or auth.store.get_user(user.username).is_admin:
        return user
    try:
        objection = _find_objection(str(user.username), call)
    except _UnclearError as error:
        objection = str(error)
    if objection is None:
        return user
    refusal = jsonify(error_code="PERMISSION_DENIED", message=objection)
    refusal.status_code = 403
    return refusal


def _find_objection(user: str, call: Call) -> str | None:
    """Return the reason for which a user must not make a call, None if Kiln allows it."""
    if call not in _KNOWN_WRITES:
        return f"{'/'.join(call)} is no call that Kiln's authorization knows; an administrator may"
    arguments = _read_arguments()
    name = _read_name(arguments, "name")
    if name.endswith(HISTORY_SUFFIX):
        return _find_history_objection(user, name, call, arguments)
    history = name + HISTORY_SUFFIX
    if call == _RENAME_MODEL:
        new_name = _read_name(arguments, "new_name", "newName")
        if new_name.endswith(HISTORY_SUFFIX):
            return f"names that end with {HISTORY_SUFFIX} belong to histories"
        if _exists(history) or _exists(new_name + HISTORY_SUFFIX):
            return f"{name} cannot become {new_name}: a history belongs to one of these names"
    if call == _CREATE_MODEL and not _exists(name) and _exists(history):
        return f"{name} was deleted and its history remains; an administrator may create it again"
    if call in _ALIAS_CALLS and _exists(history) and not _may_update(user, history):
        return f"aliases of {name} are moved by those who may add to {history}"
    return None


def _find_history_objection(
    user: str, history: str, call: Call, arguments: dict[str, Any]
) -> str | None:
    if call == _CREATE_VERSION:
        account = _read_move(arguments).get("account")
        if account != user:
            return (
                f"a move in {history} names the account that makes it: {account!r} is not {user!r}"
            )
        return None
    if call != _CREATE_MODEL:
        return f"{history} is a history: what is written there stays as it is"
    if _exists(history):
        return None  # MLflow answers that the model exists
    return f"{history} is made by the administrator, with `python -m pipelines.grant`"


def _read_arguments() -> dict[str, Any]:
    """Return the arguments of the request, which are the same for MLflow's checks and its handlers.

    Raises:
        _UnclearError: They are not in a JSON object in the body alone, or one is there twice.
    """
    if request.query_string:
        raise _UnclearError("the arguments of this call belong into its body, not into its address")
    if request.mimetype != "application/json":
        raise _UnclearError("this call needs the content type application/json")
    try:
        arguments = json.loads(request.get_data(), object_pairs_hook=_refuse_duplicates)
    except ValueError as error:  # of json and of the encoding
        raise _UnclearError(f"the body of this call is not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise _UnclearError("the body of this call has to be a JSON object")
    return arguments


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _UnclearError("the body of this call has an argument twice")
    return values


def _read_name(arguments: dict[str, Any], *spellings: str) -> str:
    """Return the name of a registered model, which must be given in one of the spellings."""
    values = [arguments[key] for key in spellings if key in arguments]
    if len(values) != 1 or not isinstance(values[0], str):
        raise _UnclearError(f"this call needs one {spellings[0]}, as text")
    return str(values[0])


def _read_move(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the move that a new version of a history records.

    Raises:
        _UnclearError: There is not exactly one, as JSON.
    """
    tags = arguments.get("tags")
    try:
        moves = [
            json.loads(tag["value"], object_pairs_hook=_refuse_duplicates)
            for tag in tags or ()
            if tag["key"] == MOVE_TAG
        ]
    except (TypeError, KeyError, ValueError):
        moves = []
    if len(moves) != 1 or not isinstance(moves[0], dict):
        raise _UnclearError(f"a version of a history has one tag {MOVE_TAG}, with a move as JSON")
    return dict(moves[0])


def _may_update(user: str, name: str) -> bool:
    kind = RESOURCE_TYPE_REGISTERED_MODEL
    return bool(auth.authorize(user, (kind, name), [Requirement(kind, name, "update")]))


def _exists(name: str) -> bool:
    """Return whether a registered model exists.

    Any error other than "not found" is raised, so that a failing store does not allow the request.
    """
    try:
        _get_model_registry_store().get_registered_model(name)
    except MlflowException as error:
        if error.get_http_status_code() != 404:
            raise
        return False
    return True
