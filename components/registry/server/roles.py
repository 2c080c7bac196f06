"""Roles on a server with basic auth: two for each registered model, made by the administrator.

`<name>-training` registers: it writes the runs and artifacts of the experiment, and versions with
their tags. `<name>-promoters` moves aliases, and so adds to the history.
`components.registry.server.authorization` enforces what MLflow's permissions cannot express.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components.errors import UserError
from components.registry import history, model_versions
from components.tracking import store

if TYPE_CHECKING:
    from mlflow.server.auth.client import AuthServiceClient

TRAINING = "training"
PROMOTERS = "promoters"
Permissions = dict[tuple[str, str], str]
"""Type and name (or id) of a resource, and MLflow's permission on it."""
_WORKSPACE = "default"
_ADMIN = "the server's administrator"
_MODEL = "registered_model"


def grant(
    client: MlflowClient,
    name: str,
    members: dict[str, list[str]],
    ask_password: Callable[[str], str],
) -> None:
    """Give users their roles, and create what is missing for it.

    Creates the registered models, the experiment, both roles and the users. Repeating the call
    changes nothing.

    Args:
        client: Client of the store, as the administrator.
        name: The registered model.
        members: Role (`TRAINING`, `PROMOTERS`) to the names of its users.
        ask_password: Called with the name of each user to create; returns the password.

    Raises:
        UserError: The server has no basic auth, the caller is not its administrator, or it refuses
            a password.
    """
    service = _connect()
    with store.explain_denial("give rights", _ADMIN):
        for user in dict.fromkeys(user for users in members.values() for user in users):
            _ensure_user(service, user, ask_password)
        roles = {role.name: role for role in service.list_roles(_WORKSPACE)}
        model_versions.ensure_registered_model(client, name)
        history.ensure_history(client, name)
        experiment_id = store.ensure_experiment(client, name)
        for kind, permissions in get_permissions(name, experiment_id).items():
            role_name = f"{name}-{kind}"
            role = roles.get(role_name) or service.create_role(_WORKSPACE, role_name)
            _set_permissions(service, role.id, permissions)
            for user in members.get(kind, []):
                _revoke_creator_permission(service, user, name)
                if role.id not in {held.id for held in service.list_user_roles(user)}:
                    service.assign_role(user, role.id)


def revoke(name: str, user: str) -> None:
    """Take both roles of a registered model from a user.

    Raises:
        UserError: The user does not exist, or the caller is not the administrator.
    """
    service = _connect()
    with store.explain_denial("take rights", _ADMIN):
        if not _user_exists(service, user):
            raise UserError(f"there is no user {user!r} on {store.get_redacted_uri()}")
        for role in service.list_user_roles(user):
            if role.name in (f"{name}-{TRAINING}", f"{name}-{PROMOTERS}"):
                service.unassign_role(user, role.id)
        _revoke_creator_permission(service, user, name)


def get_permissions(name: str, experiment_id: str) -> dict[str, Permissions]:
    """Return the permissions of each role."""
    model = (_MODEL, name)
    history_model = (_MODEL, history.history_model_name(name))
    experiment = ("experiment", experiment_id)
    return {
        TRAINING: {model: "EDIT", history_model: "READ", experiment: "EDIT"},
        # MLflow requires MANAGE to delete an alias, which takes back the first promotion.
        PROMOTERS: {model: "MANAGE", history_model: "EDIT", experiment: "READ"},
    }


def _connect() -> AuthServiceClient:
    if not store.uses_server():
        raise UserError(
            f"{store.get_redacted_uri()} is no server; rights are those of its files. Set "
            "MLFLOW_TRACKING_URI"
        )
    from mlflow.server.auth.client import AuthServiceClient  # imports the whole server

    service = AuthServiceClient(store.get_uri())
    try:
        with store.explain_denial("give and take rights", _ADMIN):
            service.list_roles(_WORKSPACE)
    except MlflowException as error:
        if error.get_http_status_code() != 404:
            raise
        raise UserError(
            f"{store.get_redacted_uri()} runs without basic auth, so there are no rights to give"
        ) from None
    return service


def _user_exists(service: AuthServiceClient, user: str) -> bool:
    try:
        service.get_user(user)
    except MlflowException as error:
        if error.get_http_status_code() != 404:
            raise
        return False
    return True


def _ensure_user(service: AuthServiceClient, user: str, ask_password: Callable[[str], str]) -> None:
    if _user_exists(service, user):
        return
    try:
        service.create_user(user, ask_password(user))
    except MlflowException as error:
        if error.get_http_status_code() != 400:
            raise
        raise UserError(
            f"{store.get_redacted_uri()} does not take user {user!r}: {error.message}"
        ) from None


def _set_permissions(service: AuthServiceClient, role_id: int, permissions: Permissions) -> None:
    """Give a role exactly these permissions, without touching those that are right already."""
    missing = dict(permissions)
    for present in service.list_role_permissions(role_id):
        permission = missing.pop((present.resource_type, present.resource_pattern), None)
        if permission is None:
            service.remove_role_permission(present.id)
        elif permission != present.permission:
            service.update_role_permission(present.id, permission)
    for (resource_type, resource), permission in missing.items():
        service.add_role_permission(role_id, resource_type, resource, permission)


def _revoke_creator_permission(service: AuthServiceClient, user: str, name: str) -> None:
    """Take from a user the permissions that creating the registered models gave.

    MLflow gives the user who creates a registered model MANAGE on it, permanently.
    """
    for model in (name, history.history_model_name(name)):
        try:
            service.revoke_user_permission(user, _MODEL, model)
        except MlflowException as error:
            if error.get_http_status_code() != 404:
                raise
