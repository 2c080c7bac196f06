"""What an MLflow server asks about each request, in place of MLflow's own function: basic auth, and Kiln's rule besides.

To MLflow, whoever may add versions to a registered model may also move its aliases and rename it (both are `update` on the
model). Here an alias of `task` is moved by those only who may write the moves down, that is, who may add versions to
`task-history`; and what is written there stays as it is. Registered models without a history are left to MLflow's rules.

An `authorization_function` is MLflow's own hook for this (https://mlflow.org/docs/latest/self-hosting/security/custom/);
`docs/server.md` says how it is set.
"""

from __future__ import annotations

import re

from flask import Response, jsonify, request
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from mlflow.server.auth.permissions import RESOURCE_TYPE_REGISTERED_MODEL
from mlflow.server.auth.requirements import Requirement
from mlflow.server.handlers import _get_model_registry_store
from werkzeug.datastructures import Authorization

from components.registry import HISTORY_SUFFIX

_REGISTRY = re.compile(r"/mlflow/(registered-models|model-versions)/([a-z-]+)$")
# What moves an alias, directly or by taking away what it stands on or is found by.
_MOVES = {
    ("registered-models", "alias"),
    ("registered-models", "rename"),
    ("registered-models", "delete"),
    ("model-versions", "delete"),
}
_READS = {"get", "search", "get-latest-versions", "get-download-uri"}


def authenticate() -> Authorization | Response:
    """Who asks, or a refusal. MLflow calls it within the request, and asks its own permissions afterwards."""
    who: Authorization | Response = auth.authenticate_request_basic_auth()
    route = _REGISTRY.search(request.path)
    if isinstance(who, Response) or route is None or request.method == "GET" or route[2] in _READS:
        return who
    reason = _objection(str(who.username), (route[1], route[2]))
    if reason is None:
        return who
    refusal = jsonify(error_code="PERMISSION_DENIED", message=reason)
    refusal.status_code = 403
    return refusal


def _objection(user: str, call: tuple[str, str]) -> str | None:
    try:
        # As MLflow's own rules read it, so that both speak of the same model.
        name = str(auth._get_request_param("name"))
    except MlflowException:
        return None  # MLflow refuses it for want of a name
    if auth.store.get_user(user).is_admin:
        return None
    base, ledger = name.removesuffix(HISTORY_SUFFIX), name + HISTORY_SUFFIX
    if base != name and _exists(base):
        if call == ("registered-models", "create"):
            return None if _exists(name) else f"{name} is made by the administrator, with `python -m pipelines.grant`"
        return None if call == ("model-versions", "create") else f"{name} is a history: what is written there stays as it is"
    if call in _MOVES and _exists(ledger):
        kind = RESOURCE_TYPE_REGISTERED_MODEL
        if not auth.authorize(user, (kind, ledger), [Requirement(kind, ledger, "update")]):
            return f"aliases of {name} are moved by those who may add to {ledger}"
    return None


def _exists(name: str) -> bool:
    try:
        _get_model_registry_store().get_registered_model(name)
    except MlflowException as error:
        if error.get_http_status_code() != 404:
            raise  # a store that does not answer must not open the door
        return False
    return True
