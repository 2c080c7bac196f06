"""The address of the MLflow store, and checks of it that need no client of MLflow."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import requests

from components.errors import UserError
from components.paths import ROOT
from components.redaction import redact, redact_address

EMBEDDED_URI = f"sqlite:///{ROOT / 'mlflow.db'}"
_TIMEOUT_S = 5
_SERVERS = ("http", "https")
# Databases that MLflow reaches through a port, and the ports that they listen on by default.
_DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_DATABASE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
_DATABRICKS = ("databricks", "databricks-uc", "uc")
_KNOWN = "http://HOST:PORT, sqlite:////ABSOLUTE/PATH/mlflow.db and postgresql://USER@HOST/DATABASE"
_HOST = r"(localhost|[\w-]+(\.[\w-]+)+|[\w-]+(?=:\d)|\[[0-9a-f:]+\])(:\d+)?(/.*)?"


def get_uri() -> str:
    """Return the address of the store. It may contain a password."""
    return os.environ.get("MLFLOW_TRACKING_URI") or EMBEDDED_URI


def get_redacted_uri() -> str:
    """Return the address of the store with any password replaced by `***`, for messages."""
    return redact_address(get_uri())


def uses_server() -> bool:
    """Return whether the store is a server, and not a database that this process opens itself."""
    return get_uri().partition("://")[0].lower() in _SERVERS


def uses_database_server() -> bool:
    """Return whether the store is a database that this process reaches through a port."""
    return get_uri().partition("://")[0].partition("+")[0].lower() in _DATABASES


def get_database_file() -> Path | None:
    """Return the SQLite file that the address names, None if it names none."""
    name = re.sub(r"^sqlite(\+\w+)?:///", "", get_uri()).partition("?")[0]
    return None if name in (get_uri(), "", ":memory:") else Path(name).absolute()


def get_account() -> str | None:
    """Return the name by which a server knows this user, None without a server or a name."""
    if not uses_server():
        return None
    return os.environ.get("MLFLOW_TRACKING_USERNAME") or urlsplit(get_uri()).username


def describe_user() -> str:
    """Return the user that a server sees, for messages."""
    name = get_account()
    return f"user {name!r}" if name else "an unnamed user (MLFLOW_TRACKING_USERNAME is not set)"


def describe_wrong_password() -> str:
    """Return the reason of HTTP 401, for messages."""
    return (
        f"it does not accept the name and password of {describe_user()}; set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to what its administrator gave you"
    )


def make_error(reason: str) -> UserError:
    """Return the error for a store that cannot be used, for `reason`, which may quote a secret."""
    advice = ""
    if get_uri() != EMBEDDED_URI:
        advice = "; or unset MLFLOW_TRACKING_URI to use the embedded mlflow.db"
    reason = redact(reason)
    return UserError(f"the tracking store {get_redacted_uri()} cannot be used: {reason}{advice}")


def check_address() -> None:
    """Check the address of the store, and that something answers there within seconds.

    MLflow would create a store at a mistyped path, and try for two minutes to open a database that
    does not answer.

    Raises:
        UserError: the address is malformed, its folder cannot be used, or nothing answers. The
            message contains the address without its password.
    """
    uri = get_uri()
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:  # its text may have a part of the password
        raise make_error(
            "it is malformed: a port is a number, an IPv6 address stands in brackets, and special "
            f"characters of a password are percent-encoded; known: {_KNOWN}"
        ) from None
    scheme = parts.scheme.partition("+")[0]
    if uri.strip() != uri or uri[0] in "\"'":
        raise make_error("a space or a quotation mark stands around it; remove it")
    if uri in _DATABRICKS or scheme in _DATABRICKS:
        return
    if scheme == "sqlite":
        _check_file(uri)
    elif uses_server() and parts.hostname:
        _check_health(uri)
    elif uses_database_server() and parts.hostname:
        _check_port(parts.hostname, port or _DATABASES[scheme])
    else:
        raise make_error(_describe_form(uri, scheme))


def _describe_form(uri: str, scheme: str) -> str:
    """Return what is wrong with an address that is none of `_KNOWN`, and what was meant."""
    if not scheme and uri.lower().endswith(_DATABASE_SUFFIXES):
        return (
            f"a path of a database begins with sqlite:///; write sqlite:///{Path(uri).absolute()}"
        )
    if re.fullmatch(_HOST, uri, re.IGNORECASE):
        return f"it does not say how to reach the server; write http://{uri} (or https://)"
    if scheme in _SERVERS or scheme in _DATABASES:
        return f"it names no host; known: {_KNOWN}"
    if scheme and scheme != "file":
        return f"{scheme}: is not known; known: {_KNOWN}"
    folder = Path(re.sub("^file:(//)?", "", uri)).absolute()
    return f"MLflow keeps no stores in folders any more; write sqlite:///{folder}/mlflow.db"


def _check_file(uri: str) -> None:
    """Refuse an SQLite file that cannot be opened or created."""
    path = get_database_file()
    if path is None:
        raise make_error(f"it names no file; write it as in sqlite:///{ROOT}/mlflow.db")
    if path.is_dir():
        raise make_error(f"{path} is a folder; name a file in it, such as {path}/mlflow.db")
    if not path.parent.is_dir():
        raise make_error(f"there is no folder {path.parent}; create it, name another")
    for needed in (path.parent, path):
        if needed.exists() and not os.access(needed, os.R_OK | os.W_OK):
            raise make_error(
                f"you may not write {needed}; change its permissions, name another file"
            )
    if uri == EMBEDDED_URI and not path.exists():
        _create_private(path)
    try:
        with closing(sqlite3.connect(path)) as database:
            database.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname not in ("SQLITE_BUSY", "SQLITE_LOCKED"):
            raise make_error(f"{path} cannot be opened ({error}); name another file") from None


def _create_private(database: Path) -> None:
    """Create the embedded store's files for their owner only: SQLite and MLflow use the umask."""
    (database.parent / "mlartifacts").mkdir(mode=0o700, exist_ok=True)
    database.touch(mode=0o600)


def _check_port(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
    except OSError as error:
        raise make_error(f"{host}:{port} does not answer ({error}); start the database") from None


def _check_health(uri: str) -> None:
    try:
        reply = requests.get(f"{uri.rstrip('/')}/health", timeout=_TIMEOUT_S)
    except (requests.RequestException, ValueError) as error:
        cause = error.args[0] if error.args else error
        reason = redact(str(getattr(cause, "reason", cause)))
        raise UserError(
            f"the tracking server {get_redacted_uri()} does not answer "
            f"({reason.partition('): ')[2] or reason}); start it, or unset MLFLOW_TRACKING_URI to "
            "use the embedded mlflow.db"
        ) from None
    if reply.status_code == requests.codes.unauthorized:
        raise make_error(describe_wrong_password())
    if reply.status_code >= requests.codes.server_error:
        raise make_error(f"it answers HTTP {reply.status_code} ({reply.reason}); see its log")
    if not reply.ok or reply.text.strip() != "OK":
        raise make_error(
            f"what answers there is no MLflow server (HTTP {reply.status_code} for /health); check "
            "host, port and path"
        )
