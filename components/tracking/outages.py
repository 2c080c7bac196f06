"""A store that stops answering while a command uses it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, ErrorCode

from components.errors import UserError, first_line
from components.redaction import redact
from components.tracking.address import get_redacted_uri

# MLflow logs a traceback for each error of the database that it raises. urllib3 logs each attempt.
_LOGGERS = ("mlflow.store.db.utils", "urllib3.connectionpool")
_SERVER_ERROR = 500


@contextmanager
def explain_outage(advice: str) -> Iterator[None]:
    """Turn a failure of the store during the block into a `UserError`.

    Errors that the store answers with although it works (no such version, not allowed) pass.

    Args:
        advice: What was changed and what to do next, for the message.

    Raises:
        UserError: The server or the database does not answer, or answers that it cannot. The
            message contains the address without its password.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]

    def drop(_: logging.LogRecord) -> bool:
        return False

    for logger in loggers:
        logger.addFilter(drop)
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        if not _is_outage(error):
            raise
        reason = redact(first_line(error))
        raise UserError(
            f"the tracking store {get_redacted_uri()} failed ({reason}); {advice}"
        ) from error
    finally:
        for logger in loggers:
            logger.removeFilter(drop)


def _is_outage(error: Exception) -> bool:
    if not isinstance(error, MlflowException):
        return True
    # The code of all errors of SQLAlchemy but OperationalError (HTTP 503): a damaged database, for
    # example.
    is_database_error = error.error_code == ErrorCode.Name(BAD_REQUEST)
    return is_database_error or int(error.get_http_status_code()) >= _SERVER_ERROR
