"""Output for the user: lines, progress, tables and errors.

It is styled by Rich on a terminal. Elsewhere, in a log for example, it is plain lines.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from components.errors import UserError

# Outside a terminal Rich assumes 80 columns, which is too narrow for the tables.
_out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
_err = Console(stderr=True, highlight=False, soft_wrap=True)
_PLAIN_INTERVAL_S = 10.0


def echo(text: str) -> None:
    """Print one line verbatim: square brackets are not markup."""
    _out.print(text, markup=False)


def print_table(title: str, columns: list[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print a table.

    Columns of numbers are aligned right, except the first. Strings are printed verbatim; `Text`
    may have a style.
    """
    grid = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE)
    for n, column in enumerate(columns):
        numeric = all(re.match(r"[-+]?[0-9]|-?$", str(row[n])) for row in rows)
        grid.add_column(Text(column), justify="right" if n and numeric else "left")
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    _out.print(grid)


class ProgressBar:
    """Context manager that shows progress: a bar on a terminal, else a line every ten seconds."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.last = time.monotonic()
        self.bar = _make_bar() if _out.is_terminal else None
        if self.bar:
            self.task = self.bar.add_task(label, total=1.0, text="")

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, share: float, text: str = "") -> None:
        """Show that `share` of the work is done, from 0 to 1."""
        if self.bar:
            self.bar.update(self.task, completed=share, text=text)
        elif time.monotonic() - self.last >= _PLAIN_INTERVAL_S:
            self.last = time.monotonic()
            echo(f"{self.label}: {share:.0%} {text}")

    def update_count(self, done: int, total: int) -> None:
        """Show that `done` of `total` items are done."""
        self.update(done / total, f"{done:,}/{total:,}")


def _make_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}"),
        console=_out,
        transient=True,
    )


def format_duration(seconds: float) -> str:
    """Return a duration as text: `45 s`, `3:05 min` or `2:03:00 h`."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60}:{total % 60:02d} min"
    return f"{total // 3600}:{total % 3600 // 60:02d}:{total % 60:02d} h"


def launch(main: Callable[[], None]) -> None:
    """Run a command and turn its outcome into an exit code.

    A `UserError` is printed without a traceback and exits with 2, an interruption with 130. Any
    other exception keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        _err.print(f"error: {error}", style="bold red" if _err.is_terminal else None, markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        _err.print("interrupted", markup=False)
        sys.exit(130)
