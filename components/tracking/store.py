"""Which MLflow: the server that `MLFLOW_TRACKING_URI` names, else `mlflow.db` and `mlartifacts/` in the repository."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components.console import say
from components.errors import UserError
from components.paths import ROOT
from components.tracking import spool

EMBEDDED = f"sqlite:///{ROOT / 'mlflow.db'}"
_PROBE_S = 5
_DENIED = (401, 403)


def uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or EMBEDDED


def shown() -> str:
    """The address as it may be printed: without a password."""
    password = urlsplit(uri()).password
    return uri().replace(f":{password}@", ":***@") if password else uri()


def connect() -> MlflowClient:
    """A client of the store, after making sure that it answers.

    Raises:
        UserError: it does not; names it, without any password in its address. Takes at most about 20 seconds.
    """
    for name in ("mlflow", "alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mlflow")
    address = uri()
    advice = "start it, or unset MLFLOW_TRACKING_URI to use the embedded mlflow.db"
    if urlsplit(address).scheme in ("http", "https"):
        try:
            requests.get(f"{address.rstrip('/')}/health", timeout=_PROBE_S).raise_for_status()
        except requests.RequestException as error:
            reason = getattr(error.__cause__ or error, "reason", None) or error
            raise UserError(
                f"the tracking server {shown()} does not answer ({type(error).__name__}: {reason}); {advice}"
            ) from None
    mlflow.set_tracking_uri(address)
    client = MlflowClient()
    try:
        client.search_experiments(max_results=1)
    except Exception as error:  # MLflow lets SQLAlchemy's, requests' and its own errors through alike
        reason = _reason(error) or f"{error}; {advice}"
        raise UserError(f"the tracking store {shown()} cannot be used: {reason}") from error
    for run_id in spool.replay(client, address):
        say(f"tracking: sent what run {run_id} had kept while {shown()} did not answer")
    return client


def identity() -> str:
    """Who the server takes us for."""
    name = os.environ.get("MLFLOW_TRACKING_USERNAME") or urlsplit(uri()).username
    return f"user {name!r}" if name else "an unnamed user (MLFLOW_TRACKING_USERNAME is not set)"


@contextmanager
def permitted(what: str, role: str) -> Iterator[None]:
    """For calls that a server may refuse, `what` (an infinitive) to all but `role`.

    Raises:
        UserError: it does; says who asked, and who may.
    """
    try:
        yield
    except (MlflowException, requests.HTTPError) as error:
        if _status(error) not in _DENIED:
            raise
        raise UserError(
            f"{shown()} does not let {identity()} {what}: that is for {role} (docs/server.md says how one becomes one)"
        ) from None


def _status(error: Exception) -> int | None:
    """The HTTP status that a server answered with, if it was one."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: Exception) -> str | None:
    """What a server's refusal of the very first call means."""
    if "Invalid Host header" in str(error):
        host = urlsplit(uri()).netloc.rpartition("@")[2]
        return f"it does not go by the name {host!r}; the server's MLFLOW_SERVER_ALLOWED_HOSTS has to have it"
    if _status(error) == 401:
        return (
            f"it does not accept the name and password of {identity()}; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD to what its administrator gave you"
        )
    return None


def experiment(client: MlflowClient, name: str) -> str:
    """The id of the experiment of that name, made if need be."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            location = str(ROOT / "mlartifacts" / name) if uri() == EMBEDDED else None
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # somebody else was quicker
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise UserError(
            f"the experiment {name!r} was deleted in {shown()}; restore it (`mlflow experiments restore "
            f"--experiment-id {found.experiment_id}`) or choose another register.name"
        )
    return str(found.experiment_id)
