"""The MLflow store that Kiln uses.

It is the server that `MLFLOW_TRACKING_URI` names, or else `mlflow.db` and `mlartifacts/` in the
repository (the embedded store).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import mlflow
import requests

# Re-exported for annotations in `pipelines`, which must not import mlflow.
from mlflow import MlflowClient as MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from components.console import echo
from components.errors import UserError, first_line
from components.tracking import embedded, spool

# The names with `as` are part of this module's interface.
from components.tracking.address import EMBEDDED_URI as EMBEDDED_URI
from components.tracking.address import (
    check_address,
    describe_user,
    describe_wrong_password,
    get_database_file,
    make_error,
    uses_database_server,
)
from components.tracking.address import get_redacted_uri as get_redacted_uri
from components.tracking.address import get_uri as get_uri
from components.tracking.address import uses_server as uses_server
from components.tracking.creation import create_tables

TRAINING_IDENTITY = "the training identity"
"""Name of the users that register, for `explain_denial`."""
READERS = "those who were given READ"
"""Name of the users that read, for `explain_denial`."""
_DENIED = (401, 403)


def connect() -> MlflowClient:
    """Return a client of the store after checking that the store answers.

    Also makes the embedded store name the artifacts beside it after the repository was moved or
    copied, and sends the metrics that the spool keeps for this store.

    Raises:
        UserError: The store does not answer within about 20 seconds, or it refuses the user. The
            message contains the address without its password. Or the embedded store came from
            another folder without its artifacts.
    """
    for name in ("mlflow", "alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mlflow")
    uri = get_uri()
    if uri == EMBEDDED_URI:
        embedded.check_root()
    check_address()
    if uri == EMBEDDED_URI:
        _relocate()
    try:
        if uses_database_server():
            from mlflow.store.db.utils import create_sqlalchemy_engine

            create_sqlalchemy_engine(uri).connect().close()  # MLflow itself would try ten times
        if path := get_database_file():
            create_tables(path)
        mlflow.set_tracking_uri(uri)
        client = MlflowClient()
        client.search_experiments(max_results=1)
    # MLflow raises its own errors and those of SQLAlchemy and requests.
    except Exception as error:
        raise make_error(_explain_refusal(error) or first_line(error)) from error
    for run_id in spool.replay(client, uri):
        echo(f"tracking: sent what run {run_id} had kept while {get_redacted_uri()} did not answer")
    return client


def _relocate() -> None:
    for root in embedded.relocate():
        echo(f"tracking: {get_redacted_uri()} came from {root}; it names its artifacts here now")


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
        if not is_denial(error):
            raise
        raise UserError(
            f"{get_redacted_uri()} does not let {describe_user()} {action}: that is for {role} "
            "(docs/how-to/server.md says how one becomes one)"
        ) from None


def is_denial(error: Exception) -> bool:
    """Return whether an error is a server's refusal (HTTP 401 or 403)."""
    return _http_status(error) in _DENIED


def is_missing(error: MlflowException) -> bool:
    """Return whether an error says that what was asked for does not exist."""
    return bool(error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST))


def ensure_experiment(client: MlflowClient, name: str) -> str:
    """Return the id of an experiment, which is created if it does not exist.

    Raises:
        UserError: The experiment was deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            location = embedded.locate_artifacts(name) if get_uri() == EMBEDDED_URI else None
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
    if isinstance(error, ImportError):
        return (
            f"its driver is not installed ({error}); Kiln has one for postgresql+psycopg://USER"
            "@HOST/DATABASE"
        )
    return describe_wrong_password() if _http_status(error) == 401 else None
