"""The embedded store: `mlflow.db` and `mlartifacts/` in the repository, wherever its folder is.

MLflow keeps the absolute path of every folder of artifacts in its database. It has no call and no
command that changes one (https://github.com/mlflow/mlflow/issues/3144 and 8226). After the
repository was moved or copied, the database therefore names the folders of the former place:
there, they are missing or belong to the original. `relocate` makes the database name the folders
beside it. The store stays one that every program reads with MLflow alone.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from components.errors import UserError
from components.paths import ROOT
from components.tracking.address import make_error

_DATABASE = "mlflow.db"
_ARTIFACTS = "mlartifacts"
# MLflow's own folder for experiments that were created without a location, such as "Default".
_MLFLOW_ARTIFACTS = "mlruns"
_LOCK_TIMEOUT_S = 20
_MODELS = "logged_models"
# Table, column and condition of every location of artifacts in MLflow's schema.
_COLUMNS = (
    ("experiments", "artifact_location", ""),
    ("runs", "artifact_uri", ""),
    (_MODELS, "artifact_location", ""),
    ("model_versions", "source", ""),
    ("model_versions", "storage_location", ""),
    ("trace_tags", "value", "WHERE key = 'mlflow.artifactLocation'"),
)


@dataclass(frozen=True)
class _Change:
    """A location in the database, and the folder in this repository that it has to name."""

    table: str
    column: str
    rowid: int
    former: Path
    present: Path

    @property
    def left_behind(self) -> bool:
        """True if the artifacts are at the former place and not at the present one."""
        return os.path.isdir(self.former) and not self.present.is_dir()  # noqa: PTH112


def locate_artifacts(experiment: str) -> str:
    """Return the location of an experiment's artifacts in the embedded store."""
    return str(ROOT / _ARTIFACTS / experiment)


def check_root() -> None:
    """Check that the repository's path can be part of the address of a database.

    Raises:
        UserError: SQLAlchemy would read a part of the path as options or as an escaped character,
            and open another file. Escaping that part does not help: MLflow then creates a folder
            with the escaped name.
    """
    if special := re.search(r"\?|%[0-9a-fA-F]{2}", str(ROOT)):
        raise UserError(
            f"the path of the folder {ROOT} has {special[0]!r}, which an address of an SQLite "
            "database cannot have; rename the folder, or set MLFLOW_TRACKING_URI to another store"
        )


def relocate() -> list[Path]:
    """Make the database name the artifacts beside it, if it came from another folder.

    Takes milliseconds when there is nothing to do. Several processes may call it at once.

    Returns:
        The folders that the store was in before.

    Raises:
        UserError: The artifacts did not come along with the database, or the database cannot be
            written. Nothing was changed.
    """
    path = ROOT / _DATABASE
    if not path.exists():
        return []
    try:
        with closing(
            sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)
        ) as database:
            return _relocate(database)
    except sqlite3.Error as error:
        raise make_error(
            f"it came from another folder, and its paths cannot be changed ({error}); end the "
            "process that uses it and try again"
        ) from None


def _relocate(database: sqlite3.Connection) -> list[Path]:
    """Change the paths of an open database in one transaction."""
    if not _plan_changes(database):
        return []
    database.execute("BEGIN IMMEDIATE")  # an error before the COMMIT takes back everything
    former_roots = _find_former_roots(database)
    changes = _plan_changes(database)  # another process may have made them before the lock
    _check_artifacts(changes)
    for change in changes:
        database.execute(
            f"UPDATE {change.table} SET {change.column} = ? WHERE rowid = ?",  # noqa: S608
            (str(change.present), change.rowid),
        )
    database.execute("COMMIT")
    return former_roots if changes else []


def _plan_changes(database: sqlite3.Connection) -> list[_Change]:
    """Return the changes that make the database name the artifacts beside it."""
    folders = {
        root / name: ROOT / name
        for root in _find_former_roots(database)
        for name in (_ARTIFACTS, _MLFLOW_ARTIFACTS)
    }
    if not folders:
        return []
    changes = [
        _Change(table, column, rowid, former, folders[folder] / former.relative_to(folder))
        for table, column, condition in _existing_columns(database)
        for rowid, location in database.execute(
            f"SELECT rowid, {column} FROM {table} {condition}"  # noqa: S608
        )
        if (former := _to_path(location)) is not None
        for folder in folders
        if former.is_relative_to(folder)
    ]
    # A program other than Kiln may keep its runs in MLflow's own folder of another directory.
    kept = ROOT / _MLFLOW_ARTIFACTS
    return [c for c in changes if not (c.present.is_relative_to(kept) and c.left_behind)]


def _find_former_roots(database: sqlite3.Connection) -> list[Path]:
    """Return the other folders in which the store was when it created its experiments.

    They follow from the location of an experiment of Kiln, `<root>/mlartifacts/<name>`, and of
    MLflow's experiment "Default", `<root>/mlruns/0`. Another path of this repository, such as a
    mount or a link, does not count.
    """
    if ("experiments", "artifact_location", "") not in _existing_columns(database):
        return []
    rows = database.execute("SELECT experiment_id, name, artifact_location FROM experiments")
    roots = [
        path.parent.parent
        for experiment_id, name, location in rows
        if (path := _to_path(location)) is not None
        and (
            path.parts[-2:] == (_ARTIFACTS, name)
            or (experiment_id == 0 and path.parts[-2:] == (_MLFLOW_ARTIFACTS, "0"))
        )
    ]
    return [root for root in dict.fromkeys(roots) if not _is_this_store(root / _DATABASE)]


def _existing_columns(database: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Return those of `_COLUMNS` that the database has: a new one may still be without tables."""
    existing = set(
        database.execute(
            "SELECT tables.name, columns.name FROM sqlite_master AS tables, "
            "pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'"
        )
    )
    return [column for column in _COLUMNS if column[:2] in existing]


def _check_artifacts(changes: list[_Change]) -> None:
    """Raise `UserError` if the artifacts did not come along with the database."""
    present = ROOT / _ARTIFACTS
    missing = [change for change in changes if change.left_behind]
    if missing:
        former = missing[0].former
        folder = next(parent for parent in former.parents if parent.name == _ARTIFACTS)
        raise UserError(
            f"{ROOT / _DATABASE} came from {folder.parent} without all of its artifacts: "
            f"{missing[0].present} is not there, and {len(missing)} such folders are still in "
            f"{folder}. Copy them: mkdir -p {shlex.quote(str(present))} && cp -a -n "
            f"{shlex.quote(f'{folder}/.')} {shlex.quote(str(present))}"
        )
    models = [change for change in changes if change.table == _MODELS]
    if models and not present.is_dir():
        raise UserError(
            f"{ROOT / _DATABASE} came from another folder without its artifacts: it has "
            f"{len(models)} models, and there is no folder {present}. Copy it from where the "
            f"database came from ({models[0].former} is not there any more). If the artifacts are "
            "lost, create an empty folder to go on without them, or delete mlflow.db and register "
            "the models again with `make repro`"
        )


def _is_this_store(database: Path) -> bool:
    try:
        return database.samefile(ROOT / _DATABASE)
    except OSError:
        return False


def _to_path(location: str | None) -> Path | None:
    """Return the folder that MLflow uses for a location, None if it is no local folder.

    MLflow decodes escaped characters not only in a `file:` URI, but in a plain path too.
    """
    if location is None:
        return None
    path = url2pathname(urlsplit(location).path if location.startswith("file:") else location)
    return Path(path) if path.startswith("/") else None
