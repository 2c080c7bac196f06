"""Tables of strings from text: delimited (CSV) and JSON; encodings."""

from __future__ import annotations

import codecs
import csv
import json
import warnings
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from typing import Any

import pandas as pd

from components.data.sources.tables.header import find_header, get_configured_names
from components.errors import UserError
from components.params import CsvSource

# UTF-32 comes first: its mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_CHUNK_BYTES = 1 << 20


class _RepeatedKeyError(ValueError):
    """A key stands twice in a JSON object."""


def read_delimited(content: bytes, settings: CsvSource, location: str) -> pd.DataFrame:
    """Return the cells of a CSV file; the delimiter is recognised from the header.

    Raises:
        UserError: the text is not in the encoding, or is malformed.
    """
    encoding = _get_encoding(content, settings.encoding)
    if encoding.lower() in ("utf-8", "utf8") and b"\0" in content[:_CHUNK_BYTES]:
        raise UserError(
            f"{location} holds zero bytes: it is no text, or UTF-16 without a byte order mark; "
            "save it as UTF-8, or set preprocess.source.encoding: utf-16-le"
        )
    try:
        header = find_header(content, encoding, settings)
        # The first lines are read as rows, so that the index is the number of the row. One more
        # column takes what is too much in a row.
        width = len(header.names)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            rows = pd.read_csv(
                BytesIO(content),
                sep=header.delimiter,
                header=None,
                names=range(width + 1),
                index_col=False,
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                skiprows=header.skipped_lines,
                encoding=encoding,
            )
    except UnicodeError as error:
        raise UserError(_describe_encoding_error(content, encoding, location, error)) from None
    except (ValueError, csv.Error, pd.errors.ParserWarning) as error:
        detail = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        raise UserError(
            f"{location} is not a regular table: {detail}; "
            "a value with a separator, a quote or a line break in it needs quotes around it"
        ) from None
    rows.index += 1 + header.skipped_lines
    rows = rows.iloc[1:].fillna("")
    _check_lengths(rows, width, location)
    del rows[width]
    rows.columns = pd.Index([name.strip() for name in header.names])
    return rows


def _check_lengths(rows: pd.DataFrame, width: int, location: str) -> None:
    """Raise `UserError` if rows have a value in the column `width`, which the header lacks."""
    too_long = rows.index[rows[width].str.strip() != ""]
    if len(too_long):
        every = len(too_long) == (rows != "").any(axis=1).sum()
        advice = "a value with a separator in it needs quotes around it"
        if every:
            advice += ", or the header lacks the name of a column, perhaps of the first one"
        raise UserError(
            f"{location}: row {too_long[0]} has more values than the header names columns "
            f"({width}), as {len(too_long):,} rows have; {advice}"
        )


def read_json(content: bytes, settings: CsvSource, location: str) -> pd.DataFrame:
    """Return the values of JSON lines, or of a JSON array of objects; numbers stay as written.

    Lists and objects are left empty, except in the configured columns.

    Raises:
        UserError: the text is not in the encoding, is no such JSON, or a configured column holds a
            list or an object.
    """
    encoding = _get_encoding(content, settings.encoding)
    used = get_configured_names(settings)
    every_column = settings.label_columns == "auto"
    columns: dict[str, list[str]] = {}
    numbers: list[int] = []
    try:
        for number, item in _iter_json(content, encoding, location):
            if not isinstance(item, dict):
                raise UserError(
                    f"{location}: row {number} is {json.dumps(item)[:40]}, not an object; "
                    'objects such as {"path": "a.jpg", "label": "cat"} are needed'
                )
            for name, value in item.items():
                column = columns.setdefault(name, [])
                column += [""] * (len(numbers) - len(column))
                column.append(_to_text(value))
                nested = isinstance(value, dict | list)
                if nested and (every_column or name.casefold() in used):
                    raise UserError(
                        f"{location}: row {number}: {name!r} is {json.dumps(value)[:40]}; "
                        "a text or a number is needed, in one object per image"
                    )
            numbers.append(number)
    except UnicodeError as error:
        raise UserError(_describe_encoding_error(content, encoding, location, error)) from None
    for column in columns.values():
        column += [""] * (len(numbers) - len(column))
    return pd.DataFrame(columns, index=numbers, dtype=str)


def _iter_json(content: bytes, encoding: str, location: str) -> Iterator[tuple[int, Any]]:
    """Yield the number of each row and its value."""
    lines = TextIOWrapper(BytesIO(content), encoding)
    # `str` keeps numbers as they are written, zeros and long ids included.
    decoder = json.JSONDecoder(
        parse_int=str,
        parse_float=str,
        parse_constant=lambda _: None,
        object_pairs_hook=_to_object,
    )
    number = 0
    try:
        if _first_character(content, encoding) == "[":
            yield from enumerate(decoder.decode(lines.read().strip()), 1)
            return
        for number, text in enumerate(lines, 1):
            if text.strip():
                yield number, decoder.decode(text.strip())
    except (json.JSONDecodeError, RecursionError, _RepeatedKeyError) as error:
        line: int = number or getattr(error, "lineno", 1)
        raise UserError(
            f"{location} is not JSON that is read: line {line}: {error}; an array of objects, or "
            'one object per line, is needed (pandas writes one with orient="records")'
        ) from None


def _to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object without blanks around its keys; refuses keys that stand twice."""
    item = {name.strip(): value for name, value in pairs}
    if len(item) < len(pairs):
        names = [name.strip() for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise _RepeatedKeyError(f"the key {repeated!r} stands twice in an object")
    return item


def _first_character(content: bytes, encoding: str) -> str:
    return TextIOWrapper(BytesIO(content), encoding).read(1000).lstrip()[:1]


def _to_text(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            # Escapes such as "\\ud800" are no text, and pandas fails on them.
            return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
        case bool():
            return str(value).lower()
        case _:
            return ""


def _get_encoding(content: bytes, encoding: str | None) -> str:
    marks = (name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark))
    return next(marks, encoding or "utf-8")


def _describe_encoding_error(
    content: bytes, encoding: str, location: str, error: UnicodeError
) -> str:
    """Return the message for text that is not in its encoding, with the first place."""
    advice = (
        "save it as UTF-8 (in Excel: CSV UTF-8), or set preprocess.source.encoding "
        "(cp1252 for files of Windows in western languages)"
    )
    decoder = codecs.getincrementaldecoder(encoding)()
    for start in range(0, len(content), _CHUNK_BYTES):
        chunk = content[start : start + _CHUNK_BYTES]
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk, final=start + len(chunk) == len(content))
        except UnicodeDecodeError as failure:
            position = start - pending + failure.start
            line = content.count(b"\n", 0, position) + 1
            shown = ascii(content[max(0, position - 20) : position + 20])[1:]
            return (
                f"{location} is not in {encoding.removesuffix('-sig').upper()}: "
                f"byte {position:,} (0x{content[position]:02X}, line {line:,}) is not: "
                f"{shown}; {advice}"
            )
    return f"{location} is not in {encoding}: {error}; {advice}"
