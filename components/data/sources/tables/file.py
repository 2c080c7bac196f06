"""Tables of strings from files: recognition of the format, and Excel. Text is in `text`."""

from __future__ import annotations

import codecs
import gzip
import warnings
import zipfile
import zlib
from io import BytesIO

import pandas as pd

from components.data.sources.base import Refusal, name_some
from components.data.sources.files.tree import FileTree
from components.data.sources.tables.header import MAX_TITLE_ROWS, is_header
from components.data.sources.tables.text import read_delimited, read_json
from components.errors import UserError
from components.params import CsvSource

EXTENSIONS = ("csv", "tsv", "xlsx", "xlsm", "json", "jsonl", "ndjson")
"""Extensions of files that are certainly tables. A .txt file may be one."""
_MAX_TABLE_BYTES = 1 << 32
# Size of the unpacked XML. Excel's limit of a million rows takes some hundred MiB.
_MAX_WORKBOOK_BYTES = 1 << 30
_WORKBOOK_ERRORS = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, EOFError, SyntaxError,
    NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
# First bytes of files that are no text -> advice.
_FOREIGN_FORMATS = {
    b"\xd0\xcf\x11\xe0": "it is an old Excel file (.xls) or one with a password; "
    "save it as .xlsx without a password, or as CSV UTF-8",
    b"PAR1": "it is a Parquet file; for images in Parquet files set kind: parquet, "
    "else convert it to CSV",
    b"%PDF": "it is a PDF; convert it to CSV",
    b"SQLite": "it is a database; export the table as CSV",
    b"\x89HDF": "it is an HDF5 file; export the table as CSV",
    b"<": "it is HTML or XML, perhaps the page of a login or of an error; download it anew",
    b"version https://git-lfs": "it is a pointer of Git LFS; `git lfs pull` fetches the table",
}


def read_table(tree: FileTree, settings: CsvSource, location: str) -> pd.DataFrame:
    """Return a table with every cell as a string.

    Names of columns have no surrounding blanks, and may repeat or be empty. The index is the number
    of the row as a spreadsheet or an editor shows it. Empty rows are included.

    Args:
        location: Name of the table, for messages.

    Raises:
        UserError: the table cannot be read, or is no table.
    """
    content = tree.read(settings.table, _MAX_TABLE_BYTES)
    if isinstance(content, Refusal):
        raise UserError(
            f"{location} cannot be read: {content.detail or content.reason}; "
            f"preprocess.source.table names the table{_list_tables(tree)}"
        )
    if content.startswith(b"\x1f\x8b"):
        content = _gunzip(content, location)
    return _parse(content, settings, location)


def _list_tables(tree: FileTree) -> str:
    suffixes = (*(f".{extension}" for extension in EXTENSIONS), ".txt", ".gz")
    tables = [path for path, _ in tree.list_files().files if path.lower().endswith(suffixes)]
    return f"; in the folder are {name_some(tables)}" if tables else ", and the folder has none"


def _gunzip(content: bytes, location: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=BytesIO(content)) as file:
            unpacked = file.read(_MAX_TABLE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{location} cannot be unpacked: {error}; compress it anew") from None
    if len(unpacked) > _MAX_TABLE_BYTES:
        raise UserError(f"{location} unpacks to more than {_MAX_TABLE_BYTES >> 30} GiB; split it")
    return unpacked


def _parse(content: bytes, settings: CsvSource, location: str) -> pd.DataFrame:
    name = settings.table.lower().removesuffix(".gz")
    for signature, advice in _FOREIGN_FORMATS.items():
        if content.startswith(signature):
            raise UserError(f"{location} is not a table that is read: {advice}")
    if content.startswith(b"PK\x03\x04"):
        return _read_excel(content, settings, location)
    if name.endswith((".xlsx", ".xlsm")):
        raise UserError(
            f"{location} is not an Excel file, whatever its name is; "
            "save it as .xlsx, or give it the extension of its content (.csv, .json)"
        )
    if not content or content.isspace():
        raise UserError(f"{location} is empty; names of columns and one row per image are needed")
    if name.endswith((".json", ".jsonl", ".ndjson")):
        return read_json(content, settings, location)
    if content.removeprefix(codecs.BOM_UTF8).lstrip().startswith((b'{"', b"[{")):
        raise UserError(
            f"{location} is JSON, whatever its name is; give it the extension .json or .jsonl"
        )
    return read_delimited(content, settings, location)


def _read_excel(content: bytes, settings: CsvSource, location: str) -> pd.DataFrame:
    """Return the cells below the header; formulas give their stored values.

    The header is the row with the configured names, or else the first one that is not empty.
    """
    sheet = settings.sheet
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > _MAX_WORKBOOK_BYTES:
            raise UserError(f"{location} unpacks to {size >> 20:,} MiB; save it as CSV UTF-8")
        with warnings.catch_warnings():
            # openpyxl warns of styles and extensions that it does not know.
            warnings.simplefilter("ignore", UserWarning)
            with pd.ExcelFile(BytesIO(content), engine="openpyxl") as workbook:
                sheets = [str(name) for name in workbook.sheet_names]
                if sheet is not None and sheet not in sheets:
                    raise UserError(
                        f"{location} has no sheet {sheet!r}; its sheets: {name_some(sheets)}"
                    )
                cells = pd.read_excel(
                    workbook,
                    sheet_name=sheets[0] if sheet is None else sheet,
                    header=None,
                    dtype=str,
                    keep_default_na=False,
                    na_filter=False,
                )
    except UserError:
        raise
    except _WORKBOOK_ERRORS as error:
        raise UserError(
            f"{location} cannot be read as an Excel file: {error}; save it anew, or as CSV UTF-8"
        ) from None
    cells = cells.fillna("").astype(str)
    filled = cells.index[(cells != "").any(axis=1)]
    if not len(filled):
        raise UserError(f"{location} has an empty sheet; preprocess.source.sheet names another")
    top = filled[: MAX_TITLE_ROWS + 1]
    header = next((row for row in top if is_header(cells.loc[row], settings)), filled[0])
    table = cells.loc[header + 1 :]
    table.columns = pd.Index(cells.loc[header].str.strip().tolist())
    table.index += 1
    return table
