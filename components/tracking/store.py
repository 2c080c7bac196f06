"""The MLflow store that Kiln uses.

It is the server that `MLFLOW_TRACKING_URI` names, or else `mlflow.db` and `mlartifacts/` in the
repository (the embedded store).
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import mlflow
import requests

# Re-exported for annotations in `pipelines`, which must not import mlflow.
from mlflow import MlflowClient as MlflowClient
from mlflow.exceptions import MlflowException

from components.console import echo
from components.errors import UserError
from components.paths import ROOT
from components.tracking import spool

EMBEDDED_URI = f"sqlite:///{ROOT / 'mlflow.db'}"
TRAINING_IDENTITY = "the training identity"
"""Name of the users that register, for `explain_denial`."""
READERS = "those who were given READ"
"""Name of the users that read, for `explain_denial`."""
_HEALTH_TIMEOUT_S = 5
_DENIED = (401, 403)


def get_uri() -> str:
    """Return the address of the store. It may contain a password."""
    return os.environ.get("MLFLOW_TRACKING_URI") or EMBEDDED_URI


def get_redacted_uri() -> str:
    """Return the address of the store with any password replaced by `***`, for messages."""
    password = urlsplit(get_uri()).password
    return get_uri().replace(f":{password}@", ":***@") if password else get_uri()


def uses_server() -> bool:
    """Return whether the store is a server, and not a database that this process opens itself."""
    return urlsplit(get_uri()).scheme in ("http", "https")


def connect() -> MlflowClient:
    """Return a client of the store after checking that the store answers.

    Also sends the metrics that the spool keeps for this store.

    Raises:
        UserError: The store does not answer within about 20 seconds, or it refuses the user. The
            message contains the address without its password.
    """
    for name in ("mlflow", "alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mlflow")
    uri = get_uri()
    advice = "start it, or unset MLFLOW_TRACKING_URI to use the embedded mlflow.db"
    if uses_server():
        _check_health(uri, advice)
    mlflow.set_tracking_uri(uri)
    client = MlflowClient()
    try:
        client.search_experiments(max_results=1)
    # MLflow raises its own errors and those of SQLAlchemy and requests.
    except Exception as error:
        reason = _explain_refusal(error) or f"{error}; {advice}"
        raise UserError(
            f"the tracking store {get_redacted_uri()} cannot be used: {reason}"
        ) from error
    for run_id in spool.replay(client, uri):
        echo(f"tracking: sent what run {run_id} had kept while {get_redacted_uri()} did not answer")
    return client


def _check_health(uri: str, advice: str) -> None:
    try:
        reply = requests.get(f"{uri.rstrip('/')}/health", timeout=_HEALTH_TIMEOUT_S)
        reply.raise_for_status()
    except requests.RequestException as error:
        reason = getattr(error.__cause__ or error, "reason", None) or error
        raise UserError(
            f"the tracking server {get_redacted_uri()} does not answer "
            f"({type(error).__name__}: {reason}); {advice}"
        ) from None


@contextmanager
def explain_denial(action: str, role: str) -> Iterator[None]:
    """Turn a server's refusal (HTTP 401 or 403) of the calls in the block into a `UserError`.

    Args:
        action: What the block does, as an infinitive without "to", for the message.
        role: Those who are allowed to do it, for the message.

    Raises:
        UserError: The server refused. The message names the user and `role`.
    """
    try:
        yield
    except (MlflowException, requests.HTTPError) as error:
        if _http_status(error) not in _DENIED:
            raise
        raise UserError(
            f"{get_redacted_uri()} does not let {_describe_user()} {action}: that is for {role} "
            "(docs/how-to/server.md says how one becomes one)"
        ) from None


def ensure_experiment(client: MlflowClient, name: str) -> str:
    """Return the id of an experiment, which is created if it does not exist.

    Raises:
        UserError: The experiment was deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            location = str(ROOT / "mlartifacts" / name) if get_uri() == EMBEDDED_URI else None
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process has created it meanwhile
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"the experiment {name!r} was deleted in {get_redacted_uri()}; restore it "
            f"(`mlflow experiments restore --experiment-id {experiment.experiment_id}`) or choose "
            "another register.name"
        )
    return str(experiment.experiment_id)


def _describe_user() -> str:
    """Return the user that the server sees, for messages."""
    name = os.environ.get("MLFLOW_TRACKING_USERNAME") or urlsplit(get_uri()).username
    return f"user {name!r}" if name else "an unnamed user (MLFLOW_TRACKING_USERNAME is not set)"


def _http_status(error: Exception) -> int | None:
    """Return the HTTP status of a server's reply, None if the error is not a reply."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    return getattr(getattr(error, "response", None), "status_code", None)


def _explain_refusal(error: Exception) -> str | None:
    """Return the reason for which a server refused the first call, None if it is unknown."""
    if "Invalid Host header" in str(error):
        host = urlsplit(get_uri()).netloc.rpartition("@")[2]
        return (
            f"it does not go by the name {host!r}; the server's MLFLOW_SERVER_ALLOWED_HOSTS has "
            "to have it"
        )
    if _http_status(error) == 401:
        return (
            f"it does not accept the name and password of {_describe_user()}; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to what its administrator gave "
            "you"
        )
    return None
