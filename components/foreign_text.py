"""Text that others wrote, made safe for a terminal or a log.

It may quote a secret (`components.redaction`), and it may hold characters that a terminal obeys or
hides (`components.printable`): texts of errors, reasons, tags, names of classes, the log of a job.
`components.console` calls these functions for all that it prints.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from components.printable import escape_unprintable
from components.redaction import redact

# Colours and styles (ECMA-48, "select graphic rendition"). They change no other text.
_STYLE = re.compile(r"(\x1b\[[0-9;:]*m)")
_RESET = "\x1b[0m"


def clean(text: str) -> str:
    r"""Return `text` without secrets and with escapes, as `\x1b`, for what is not printable.

    Ends of lines and tabs stay.
    """
    return escape_unprintable(redact(text), keep="\n\t")


def clean_cell(text: str) -> str:
    """Return `text` as `clean` does, on one line."""
    return escape_unprintable(redact(text))


def clean_log(lines: str) -> str:
    r"""Return lines of a job's log without secrets and harmful control sequences.

    Colours stay, to the end of their line, and so does `\r`, by which a progress bar returns to the
    start of its line. Every other sequence is escaped: it could alter lines that were printed
    before, the clipboard or the window, or make the terminal type an answer.
    """
    return "\n".join(map(_clean_log_line, redact(lines).split("\n")))


def _clean_log_line(line: str) -> str:
    parts = _STYLE.split(line)
    parts[::2] = [escape_unprintable(part, keep="\t\r") for part in parts[::2]]
    text = "".join(parts)
    return text if len(parts) == 1 or text.endswith(_RESET) else text + _RESET


def guard_process_output() -> None:
    """Clean what this process prints by other ways than `components.console`.

    These are uncaught exceptions of all threads with their causes, warnings, and records of
    `logging`, which any library may print. Each is replaced through its documented hook. Calling
    this again changes nothing.
    """
    sys.excepthook = _print_exception
    threading.excepthook = _print_thread_exception
    sys.unraisablehook = _print_unraisable
    warnings.showwarning = _print_warning
    make_record = logging.getLogRecordFactory()
    if not isinstance(make_record, _CleanRecordFactory):
        logging.setLogRecordFactory(_CleanRecordFactory(make_record))


def _format(
    kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> str:
    return clean("".join(traceback.format_exception(kind, error, trace)))


def _print_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(_format(kind, error, trace))


def _print_thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread else "(ended)"
        text = _format(args.exc_type, args.exc_value, args.exc_traceback)
        sys.stderr.write(f"Exception in thread {clean_cell(name)}:\n{text}")


def _print_unraisable(args: sys.UnraisableHookArgs) -> None:
    what = f"{args.err_msg or 'Exception ignored in'}: {args.object!r}"
    sys.stderr.write(f"{clean(what)}\n{_format(args.exc_type, args.exc_value, args.exc_traceback)}")


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(str(message), category, filename, lineno, line)
    (file or sys.stderr).write(clean(text))


class _CleanRecordFactory:
    """Makes the records of `logging`, whichever handler prints them, with clean texts."""

    def __init__(self, make_record: Callable[..., logging.LogRecord]) -> None:
        self.make_record = make_record

    def __call__(self, *args: object, **kwargs: object) -> logging.LogRecord:
        record = self.make_record(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 (the arguments are foreign objects and may not fit)
            message = f"{record.msg} {record.args}"
        record.msg = clean(message)
        record.args = None
        if record.exc_info and record.exc_info[0]:
            # A formatter takes this text instead of formatting the exception.
            record.exc_text = _format(*record.exc_info).rstrip("\n")
        return record
