"""Who may do what on a server with basic auth: two roles per registered model, made by its administrator.

`<name>-training` registers: runs and artifacts of the experiment, versions and their tags. `<name>-promoters` moves aliases,
and so writes the history. `components.registry.server.authorization`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components.errors import UserError
from components.registry import history, model_versions
from components.tracking import store

TRAINING, PROMOTERS = "training", "promoters"
_WORKSPACE = "default"
_ADMIN = "the server's administrator"


def grant(client: MlflowClient, name: str, members: dict[str, list[str]], password: Callable[[str], str]) -> None:
    """Makes what is not there yet: the registered models, the experiment, both roles, and the users in `members` (role ->
    names; `password` is asked for that of a new one). Repeating it changes nothing.

    Raises:
        UserError: the server has no basic auth, we are not its administrator, or it refuses a password.
    """
    users = _service()
    with store.permitted("give rights", _ADMIN):
        for user in dict.fromkeys(user for named in members.values() for user in named):
            _ensure_user(users, user, password)
        there = {role.name: role for role in users.list_roles(_WORKSPACE)}
        model_versions.ensure(client, name)
        history.begin(client, name)
        for kind, wanted in _rights(name, store.experiment(client, name)).items():
            role = there.get(f"{name}-{kind}") or users.create_role(_WORKSPACE, f"{name}-{kind}")
            _reconcile(users, role.id, wanted)
            for user in members.get(kind, []):
                _forget_creation(users, user, name)
                if role.id not in {held.id for held in users.list_user_roles(user)}:
                    users.assign_role(user, role.id)


def withdraw(name: str, user: str) -> None:
    """Takes both roles from a user. Raises `UserError` if we are not the administrator or there is no such user."""
    users = _service()
    with store.permitted("take rights", _ADMIN):
        if not _is_there(users, user):
            raise UserError(f"there is no user {user!r} on {store.shown()}")
        for role in users.list_user_roles(user):
            if role.name in (f"{name}-{TRAINING}", f"{name}-{PROMOTERS}"):
                users.unassign_role(user, role.id)
        _forget_creation(users, user, name)


def _rights(name: str, experiment_id: str) -> dict[str, dict[tuple[str, str], str]]:
    """role -> (kind of resource, resource) -> MLflow's permission."""
    model, ledger, runs = ("registered_model", name), ("registered_model", history.ledger(name)), ("experiment", experiment_id)
    return {
        TRAINING: {model: "EDIT", ledger: "READ", runs: "EDIT"},
        # MLflow wants MANAGE for taking an alias away: the way back to before the first promotion.
        PROMOTERS: {model: "MANAGE", ledger: "EDIT", runs: "READ"},
    }


def _service() -> Any:
    if urlsplit(store.uri()).scheme not in ("http", "https"):
        raise UserError(f"{store.shown()} is no server; rights are those of its files. Set MLFLOW_TRACKING_URI")
    from mlflow.server.auth.client import AuthServiceClient  # it brings the whole server along

    users = AuthServiceClient(store.uri())
    try:
        with store.permitted("give and take rights", _ADMIN):
            users.list_roles(_WORKSPACE)
    except MlflowException as error:
        if error.get_http_status_code() != 404:
            raise
        raise UserError(f"{store.shown()} runs without basic auth, so there are no rights to give") from None
    return users


def _is_there(users: Any, user: str) -> bool:
    try:
        users.get_user(user)
    except MlflowException as error:
        if error.get_http_status_code() != 404:
            raise
        return False
    return True


def _ensure_user(users: Any, user: str, password: Callable[[str], str]) -> None:
    if _is_there(users, user):
        return
    try:
        users.create_user(user, password(user))
    except MlflowException as error:
        if error.get_http_status_code() != 400:
            raise
        raise UserError(f"{store.shown()} does not take user {user!r}: {error.message}") from None


def _reconcile(users: Any, role_id: int, wanted: dict[tuple[str, str], str]) -> None:
    for held in users.list_role_permissions(role_id):
        needed = wanted.pop((held.resource_type, held.resource_pattern), None)
        if needed is None:
            users.remove_role_permission(held.id)
        elif needed != held.permission:
            users.update_role_permission(held.id, needed)
    for (kind, resource), permission in wanted.items():
        users.add_role_permission(role_id, kind, resource, permission)


def _forget_creation(users: Any, user: str, name: str) -> None:
    """Whoever makes a registered model before the administrator does gets MANAGE on it from MLflow, for good."""
    for model in (name, history.ledger(name)):
        try:
            users.revoke_user_permission(user, "registered_model", model)
        except MlflowException as error:
            if error.get_http_status_code() != 404:
                raise
