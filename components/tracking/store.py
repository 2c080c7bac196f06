"""Which MLflow: the server that `MLFLOW_TRACKING_URI` names, else `mlflow.db` and `mlartifacts/` in the repository."""

from __future__ import annotations

import logging
import os
import warnings
from urllib.parse import urlsplit

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components.console import say
from components.errors import UserError
from components.provenance import ROOT
from components.tracking import spool

EMBEDDED = f"sqlite:///{ROOT / 'mlflow.db'}"
_PROBE_S = 5


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
        raise UserError(f"the tracking store {shown()} cannot be used: {error}; {advice}") from error
    for run_id in spool.replay(client, address):
        say(f"tracking: sent what run {run_id} had kept while {shown()} did not answer")
    return client


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
