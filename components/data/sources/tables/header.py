"""The header of a table: the delimiter of its columns, and its place below titles and comments."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import BytesIO, TextIOWrapper
from itertools import count
from typing import NamedTuple

from components.params import CsvSource

_DELIMITERS = (",", ";", "\t", "|")
MAX_TITLE_ROWS = 10
"""Rows above the header in which it is sought: titles, comments."""


class Header(NamedTuple):
    """Names of the columns, the delimiter, and the number of lines before the header."""

    names: list[str]
    delimiter: str
    skipped_lines: int


def find_header(content: bytes, encoding: str, settings: CsvSource) -> Header:
    """Return the header, with the delimiter that fits it best.

    That is the delimiter by which most of the configured columns are found, then the one with most
    columns. A first line `sep=;`, as Excel understands it, is obeyed.
    """
    configured = get_configured_names(settings)
    headers = [_read_header(content, encoding, delimiter, settings) for delimiter in _DELIMITERS]

    def score(header: Header) -> tuple[int, int]:
        known = sum(name.strip().casefold() in configured for name in header.names)
        return known, len(header.names)

    return max(headers, key=score)


def _read_header(content: bytes, encoding: str, delimiter: str, settings: CsvSource) -> Header:
    """Return the row with the configured names, or else the first line that is not blank."""
    lines = TextIOWrapper(BytesIO(content), encoding, newline="")
    first = None
    filled_lines = 0
    for skipped_lines in count():
        names = next(csv.reader(lines, delimiter=delimiter), None)
        if names is None or filled_lines > MAX_TITLE_ROWS:
            break
        line = delimiter.join(names).strip().lower()
        setting = line.removeprefix("sep=")
        if setting != line and setting in _DELIMITERS:
            delimiter = setting
        elif any(name.strip() for name in names):
            header = Header(names, delimiter, skipped_lines)
            if is_header(names, settings):
                return header
            first = first or header
            filled_lines += 1
    return first or Header([], delimiter, 0)


def is_header(names: Iterable[str], settings: CsvSource) -> bool:
    """Return True if a row has the names of the columns of paths and of labels.

    Such a row is the header, also below a title or a comment.
    """
    labels = settings.label_columns
    sought = labels if isinstance(labels, list) else [] if labels else [settings.label_column]
    present = {name.strip().casefold() for name in names}
    return present >= {name.strip().casefold() for name in [settings.path_column, *sought]}


def get_configured_names(settings: CsvSource) -> set[str]:
    """Return the names of the configured columns, without case."""
    labels = settings.label_columns
    names = labels if isinstance(labels, list) else [settings.label_column]
    names = [*names, settings.path_column, settings.split_column or "", settings.group_column or ""]
    return {name.strip().casefold() for name in names} - {""}
