"""Tables beside images: a case names the rows that a table must give, or the message."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from openpyxl import Workbook

# Images beside the tables. Two have the same id, two have their extension in capitals.
FILES = (
    "cat/1.jpg", "cat/2.JPG", "dog/1.jpg", "img/00012.png", "img/00013.PNG", "img/a b.jpg",
    "img/é.jpg", "part1/x1.jpg", "part2/x2.jpg", "twice/1.jpg", "twice/1.png", "v1.5/img.1.jpg",
)  # fmt: skip
CATS = {"cat/1.jpg": "cat", "cat/2.JPG": "cat", "dog/1.jpg": "dog"}
IDS = {"img/00012.png": "cat", "img/00013.PNG": "dog"}
BY_ID = {"image_folder": "img", "path_column": "id"}
PLAIN = "path,label\ncat/1.jpg,cat\ncat/2.JPG,cat\ndog/1.jpg,dog\n"


@dataclass(frozen=True)
class Case:
    """A table, the settings to read it with, and what must come of it.

    Exactly one of `rows` (path -> label) and `message` (a pattern) is given. `refused` are the
    reasons of the refused rows by path.
    """

    content: str | bytes
    rows: dict[str, str] = field(default_factory=dict)
    message: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    table: str = "labels.csv"


def workbook(*rows: list[Any], sheets: tuple[str, ...] = ("Sheet",)) -> bytes:
    """Return an Excel file with the rows in its first sheet."""
    book = Workbook()
    book.remove(book.active)
    for name in sheets:
        book.create_sheet(name)
    for row in rows:
        book[sheets[0]].append(row)
    data = BytesIO()
    book.save(data)
    return data.getvalue()


def json_lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
