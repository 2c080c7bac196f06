"""The tables of a new SQLite store, created in one transaction.

MLflow creates its tables by the migrations of its whole past, each in transactions of its own,
which takes seconds. A process that is killed meanwhile leaves a database with some of them. Every
later start fails on it ("table ... already exists"), and MLflow has no command that mends it.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from mlflow import MlflowClient

_LOCK_TIMEOUT_S = 20


def create_tables(path: Path) -> None:
    """Create MLflow's tables in an SQLite file that has no tables yet, all or none of them.

    The tables are made in a temporary file and copied in one transaction of SQLite's. Several
    processes may call this at once.

    Args:
        path: The file. It is created if it does not exist.

    Raises:
        sqlite3.Error: The file cannot be written.
    """
    with closing(sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)) as database:
        if _has_tables(database):
            return
        statements = _list_statements()
        database.execute("BEGIN IMMEDIATE")  # a process that dies before the COMMIT changes nothing
        if not _has_tables(database):  # another process may have made them before the lock
            for statement in statements:
                database.execute(statement)
        database.execute("COMMIT")


def _has_tables(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM sqlite_master").fetchone() is not None


def _list_statements() -> list[str]:
    """Return the SQL that makes a new store of this version of MLflow."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "mlflow.db"
        MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
        with closing(sqlite3.connect(path)) as database:
            begin, *statements, commit = database.iterdump()
    assert (begin, commit) == ("BEGIN TRANSACTION;", "COMMIT;")
    return statements
