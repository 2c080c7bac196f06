"""Output for the user: lines, progress, tables and errors.

It is styled by Rich on a terminal. Elsewhere, in a log for example, it is plain lines. All text is
cleaned here of secrets and of characters that a terminal obeys (`components.foreign_text`), so
that no message has to.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from components.errors import UserError
from components.foreign_text import clean, clean_cell, guard_process_output
from components.paths import STATE

# Outside a terminal Rich assumes 80 columns, which is too narrow for the tables.
_out = Console(
    highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else 120
)
_err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
_PLAIN_INTERVAL_S = 10.0


def echo(text: str) -> None:
    r"""Print a message: square brackets are not markup, control characters are shown as `\x1b`.

    Ends of lines and tabs stay. A text of others, in which an end of a line could forge another
    message, belongs into a table or through `components.printable.escape_unprintable`.
    """
    _out.print(clean(text), markup=False)


def print_table(title: str, columns: list[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print a table.

    Columns of numbers are aligned right, except the first. Square brackets are not markup, and
    control characters, ends of lines among them, are shown as escapes. `Text` may have a style.
    """
    grid = Table(title=_make_cell(title, "bold"), title_justify="left", box=box.SIMPLE)
    for n, column in enumerate(columns):
        numeric = all(re.match(r"[-+]?[0-9]|-?$", str(row[n])) for row in rows)
        grid.add_column(_make_cell(column), justify="right" if n and numeric else "left")
    for row in rows:
        grid.add_row(*map(_make_cell, row))
    _out.print(grid)


def _make_cell(content: str | Text, style: str = "") -> Text:
    if isinstance(content, Text):
        return Text(clean_cell(content.plain), content.style)
    return Text(clean_cell(content), style)


class ProgressBar:
    """Context manager that shows progress: a bar on a terminal, else a line every ten seconds."""

    def __init__(self, label: str) -> None:
        self.label = clean_cell(label)
        self.last = time.monotonic()
        self.bar = _make_bar() if _out.is_terminal else None
        if self.bar:
            self.task = self.bar.add_task(self.label, total=1.0, text="")

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
            self.bar.update(self.task, completed=share, text=clean_cell(text))
        elif time.monotonic() - self.last >= _PLAIN_INTERVAL_S:
            self.last = time.monotonic()
            echo(f"{self.label}: {share:.0%} {text}")

    def update_count(self, done: int, total: int) -> None:
        """Show that `done` of `total` items are done."""
        self.update(done / total, f"{done:,}/{total:,}")


def _make_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}", markup=False),
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
    other exception keeps its traceback. What other libraries print is cleaned, too.
    """
    guard_process_output()
    with suppress(OSError):  # a checkout that may not be written
        STATE.mkdir(mode=0o700, exist_ok=True)  # checkpoints and images: for their owner only
    try:
        main()
    except UserError as error:
        text = clean(f"error: {error}")
        _err.print(text, style="bold red" if _err.is_terminal else None, markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        _err.print("interrupted", markup=False)
        sys.exit(130)
