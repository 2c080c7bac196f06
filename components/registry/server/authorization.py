"""The `authorization_function` of an MLflow server: basic auth, and one rule of Kiln's.

In MLflow, a user who may add versions to a registered model may also move its aliases and rename
it, because all of these are `update` on the model. With this function, only users who may add
versions to `<name>-history`, and so record a move, may move an alias of `<name>`. The recorded
moves themselves cannot be changed. Registered models without a history keep MLflow's rules.

`authorization_function` is MLflow's documented hook
(https://mlflow.org/docs/latest/self-hosting/security/custom/). `docs/how-to/server.md` explains how
to set it.

This is the only module that uses private names of MLflow: `_get_request_param` and
`_get_model_registry_store`. The hook has to read the model's name from a request exactly as
MLflow's own rules do, or a request could name one model to the hook and another to MLflow. It also
has to ask the registry of the server that it runs in. MLflow has no public functions for either.
`tests/unit/registry/test_authorization.py` fails when one of them changes.
"""

from __future__ import annotations

import re

from flask import Response, jsonify, request
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from mlflow.server.auth import _get_request_param
from mlflow.server.auth.permissions import RESOURCE_TYPE_REGISTERED_MODEL
from mlflow.server.auth.requirements import Requirement
from mlflow.server.handlers import _get_model_registry_store
from werkzeug.datastructures import Authorization

from components.registry import HISTORY_SUFFIX

_ROUTE = re.compile(r"/mlflow/(registered-models|model-versions)/([a-z-]+)$")
_CREATE_MODEL = ("registered-models", "create")
_CREATE_VERSION = ("model-versions", "create")
# Calls that move an alias, or that delete or rename the model or version that it belongs to.
_ALIAS_CALLS = {
    ("registered-models", "alias"),
    ("registered-models", "rename"),
    ("registered-models", "delete"),
    ("model-versions", "delete"),
}
_READS = {"get", "search", "get-latest-versions", "get-download-uri"}


def authenticate() -> Authorization | Response:
    """Return the user of the current request, or the response that refuses it.

    MLflow calls this during each request and checks its own permissions afterwards.
    """
    user: Authorization | Response = auth.authenticate_request_basic_auth()
    route = _ROUTE.search(request.path)
    if isinstance(user, Response) or route is None:
        return user
    if request.method == "GET" or route[2] in _READS:
        return user
    objection = _find_objection(str(user.username), (route[1], route[2]))
    if objection is None:
        return user
    refusal = jsonify(error_code="PERMISSION_DENIED", message=objection)
    refusal.status_code = 403
    return refusal


def _find_objection(user: str, call: tuple[str, str]) -> str | None:
    """Return the reason for which a user must not make a call, None if Kiln allows it."""
    try:
        name = str(_get_request_param("name"))
    except MlflowException:
        return None  # MLflow refuses a request without a name itself
    if auth.store.get_user(user).is_admin:
        return None
    base = name.removesuffix(HISTORY_SUFFIX)
    if base != name and _exists(base):
        return _find_history_objection(name, call)
    history = name + HISTORY_SUFFIX
    if call in _ALIAS_CALLS and _exists(history) and not _may_update(user, history):
        return f"aliases of {name} are moved by those who may add to {history}"
    return None


def _find_history_objection(history: str, call: tuple[str, str]) -> str | None:
    if call == _CREATE_VERSION:
        return None
    if call != _CREATE_MODEL:
        return f"{history} is a history: what is written there stays as it is"
    if _exists(history):
        return None  # MLflow answers that the model exists
    return f"{history} is made by the administrator, with `python -m pipelines.grant`"


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
