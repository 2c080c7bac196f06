"""Functions in processes that are killed (SIGKILL) at a chosen step.

Python's fork server imports everything once. Each process starts from it within milliseconds and
dies as a command does: no exception handler and no `finally` runs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import sqlalchemy
import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "tests.integration.test_killing",
        # What is otherwise imported at the first use, in every process.
        "alembic.command",
        "matplotlib.pyplot",
        "mlflow.pytorch",
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.tracking.sqlalchemy_store",
        "torch.export",
    ]
)
_TIMEOUT_S = 300


class _Steps:
    """The steps of a process: changes of a database, and of files below its folder.

    They are `commit N`, `open FILE` and `rename FILE`, and are counted before they happen. The
    process dies at the first one that `kill_at` names.
    """

    def __init__(self, folder: Path, kill_at: str | None) -> None:
        self.folder = folder
        self.kill_at = kill_at
        self.names: list[str] = []
        self.num_commits = 0
        self.uncommitted = False
        sqlalchemy.event.listen(
            sqlalchemy.Engine, "before_cursor_execute", self._recognize_change, named=True
        )
        sqlalchemy.event.listen(sqlalchemy.Engine, "commit", self._count_commit)
        sys.addaudithook(self._count_change_of_file)

    def _recognize_change(self, statement: str, **_: Any) -> None:
        self.uncommitted |= not statement.lstrip().startswith(("SELECT", "PRAGMA"))

    def _count_commit(self, _: sqlalchemy.Connection) -> None:
        if not self.uncommitted:
            return
        self.uncommitted = False
        self.num_commits += 1
        self._add(f"commit {self.num_commits}")

    def _count_change_of_file(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename":
            self._add_file("rename", arguments[1])
        elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self._add_file("open", arguments[0])

    def _add_file(self, action: str, path: object) -> None:
        if isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(
            self.folder
        ):
            self._add(f"{action} {Path(path).name}")

    def _add(self, name: str) -> None:
        self.names.append(name)
        if name == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def run(
    folder: Path, function: Callable[..., None], *arguments: Any, kill_at: str | None = None
) -> list[str]:
    """Run a function in a process of its own, with the store `mlflow.db` in its folder.

    Returns:
        The steps that it made. With `kill_at` there are none, because it must have died.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(
        target=_run, args=(sender, folder, function, arguments, kill_at), daemon=True
    )
    process.start()
    sender.close()
    process.join(_TIMEOUT_S)
    output = (folder / "output").read_text()
    expected = 0 if kill_at is None else -signal.SIGKILL
    assert process.exitcode == expected, output
    return [] if kill_at else list(receiver.recv())


def _run(
    sender: Connection,
    folder: Path,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    kill_at: str | None,
) -> None:
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    torch.set_num_threads(1)
    with Path("output").open("w") as output, redirect_stdout(output), redirect_stderr(output):
        try:
            steps = _Steps(folder, kill_at)
            function(*arguments)
            sender.send(steps.names)
        except BaseException:
            traceback.print_exc()
            raise
