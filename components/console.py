"""What a person sees: lines, progress, tables and errors. Rich on a terminal, sparse plain lines elsewhere."""

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

# Where nobody looks at a window, tables need not be squeezed into 80 columns.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
_err = Console(stderr=True, highlight=False, soft_wrap=True)
_SPARSE_S = 10.0


def say(text: str) -> None:
    """One line, as it is."""
    out.print(text, markup=False)


def table(title: str, columns: list[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Columns of figures are set right, others left. Text is shown as it is, brackets included; `Text` may have a style."""
    grid = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE)
    for n, column in enumerate(columns):
        figures = all(re.match(r"[-+]?[0-9]|-?$", str(row[n])) for row in rows)
        grid.add_column(Text(column), justify="right" if n and figures else "left")
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    out.print(grid)


class Meter:
    """Progress of one long piece of work: a bar on a terminal, elsewhere a line at most every ten seconds."""

    def __init__(self, label: str) -> None:
        self.label, self.last = label, time.monotonic()
        self.bar = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[text]}"),
                console=out,
                transient=True,
            )
            if out.is_terminal
            else None
        )
        if self.bar:
            self.task = self.bar.add_task(label, total=1.0, text="")

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, share: float, text: str = "") -> None:
        """`share` of the work is done."""
        if self.bar:
            self.bar.update(self.task, completed=share, text=text)
        elif time.monotonic() - self.last >= _SPARSE_S:
            self.last = time.monotonic()
            say(f"{self.label}: {share:.0%} {text}")

    def count(self, done: int, total: int) -> None:
        self.update(done / total, f"{done:,}/{total:,}")


def duration(seconds: float) -> str:
    """45 s, 3:05 min, 2:03:00 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d} h"


def launch(main: Callable[[], None]) -> None:
    """Runs a command: a user's mistake ends in one message and exit code 2, an interruption in 130."""
    try:
        main()
    except UserError as error:
        _err.print(f"error: {error}", style="bold red" if _err.is_terminal else None, markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        _err.print("interrupted", markup=False)
        sys.exit(130)
