"""Tables in every format and encoding."""

from __future__ import annotations

import gzip
import json

from tests.unit.data.tables.cases import BY_ID, CATS, PLAIN, Case, json_lines, workbook

CAT_ROWS = [{"path": path, "label": label} for path, label in CATS.items()]

FORMATS = {
    "commas": Case(PLAIN, CATS),
    "semicolons": Case(PLAIN.replace(",", ";"), CATS),
    "tabs": Case(PLAIN.replace(",", "\t"), CATS, table="labels.tsv"),
    "tabs in a text file": Case(PLAIN.replace(",", "\t"), CATS, table="sub/labels.txt"),
    "bars": Case(PLAIN.replace(",", "|"), CATS),
    "a comma in a column between semicolons": Case(
        'path;"size, in px, of it";label\ncat/1.jpg;1,5;cat\n', {"cat/1.jpg": "cat"}
    ),
    "separator named as Excel does": Case(
        "sep=;\r\npath;label\r\ncat/1.jpg;cat", {"cat/1.jpg": "cat"}
    ),
    "byte order mark": Case(b"\xef\xbb\xbf" + PLAIN.encode(), CATS),
    "byte order mark before a quote": Case(
        b'\xef\xbb\xbf"path","label"\ncat/1.jpg,cat\n', {"cat/1.jpg": "cat"}
    ),
    "UTF-16": Case(PLAIN.replace(",", "\t").encode("utf-16"), CATS),
    "UTF-16 without a mark": Case(PLAIN.encode("utf-16-le"), message="encoding: utf-16-le"),
    "UTF-16 without a mark, named": Case(
        PLAIN.encode("utf-16-le"), CATS, settings={"encoding": "utf-16-le"}
    ),
    "CRLF": Case(PLAIN.replace("\n", "\r\n"), CATS),
    "CR": Case(PLAIN.replace("\n", "\r"), CATS),
    "no line end": Case(PLAIN.rstrip(), CATS),
    "gzip": Case(gzip.compress(PLAIN.encode()), CATS, table="labels.csv.gz"),
    "damaged gzip": Case(
        gzip.compress(PLAIN.encode())[:-9], message="cannot be unpacked", table="labels.csv.gz"
    ),
    "blank lines and empty rows": Case(
        "\n\npath,label\n\ncat/1.jpg,cat\n   \n,\n , \ndog/1.jpg,dog\n\n",
        {"cat/1.jpg": "cat", "dog/1.jpg": "dog"},
    ),
    "separators at the end of rows": Case(
        "path,label\ncat/1.jpg,cat,\ndog/1.jpg,dog,\n", {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}
    ),
    "index without a name": Case(",path,label\n0,cat/1.jpg,cat\n", {"cat/1.jpg": "cat"}),
    "quoted line break": Case(
        'path,note,label\ncat/1.jpg,"a\n""b"", c",cat\n', {"cat/1.jpg": "cat"}
    ),
    "unquoted comma": Case(
        "path,label\ncat/1.jpg,cat\nimg/a, b.jpg,cat\n",
        message=r"row 3 has more values than .* \(2\)",
    ),
    "two unquoted commas": Case(
        "path,label\ncat/1.jpg,cat\nimg/a,b,c.jpg,cat\n", message="line 3, saw 4.*quotes"
    ),
    "unclosed quote": Case('path,label\n"cat/1.jpg,cat\n', message="is not a regular table.*quote"),
    "Windows encoding": Case(
        PLAIN.encode() + "img/é.jpg,cat\n".encode("cp1252"),
        message=r"not in UTF-8: byte 57 \(0xE9, line 5\).*encoding",
    ),
    "Windows encoding, named": Case(
        "path,label\nimg/é.jpg,cat\n".encode("cp1252"),
        {"img/é.jpg": "cat"},
        settings={"encoding": "cp1252"},
    ),
    "empty file": Case("", message="is empty"),
    "blank file": Case(" \n\n", message="is empty"),
    "header only": Case("path,label\n", message="has no rows"),
    "no header": Case("cat/1.jpg,cat\ndog/1.jpg,dog\n", message="insert a row of column names"),
    "Excel": Case(workbook(["path", "label"], *map(list, CATS.items())), CATS, table="labels.xlsx"),
    "Excel called CSV": Case(workbook(["path", "label"], *map(list, CATS.items())), CATS),
    "CSV called Excel": Case(PLAIN, message="is not an Excel file", table="labels.xlsx"),
    "Excel with blank rows, blanks and numbers": Case(
        workbook([], [" ID", "Label "], ["00012", 7], [None, None], ["00013 ", 8.0]),
        {"img/00012.png": "7", "img/00013.PNG": "8"},
        table="labels.xlsx",
        settings=BY_ID,
    ),
    "Excel sheet": Case(
        workbook(["path", "label"], ["cat/1.jpg", "cat"], sheets=("Photos", "Notes")),
        {"cat/1.jpg": "cat"},
        table="labels.xlsx",
        settings={"sheet": "Photos"},
    ),
    "unknown Excel sheet": Case(
        workbook(sheets=("Photos", "Notes")),
        message="no sheet 'x'; its sheets: Photos, Notes",
        table="labels.xlsx",
        settings={"sheet": "x"},
    ),
    "empty Excel sheet": Case(workbook(), message="empty sheet", table="labels.xlsx"),
    "Excel formulas that were never computed": Case(
        workbook(["path", "label"], ["cat/1.jpg", "=A1"]),
        message="stores the values of formulas",
        table="labels.xlsx",
    ),
    "damaged Excel": Case(
        workbook(["path", "label"])[:900],
        message="cannot be read as an Excel file",
        table="labels.xlsx",
    ),
    "Excel below a title": Case(
        workbook(["Photos of 2024"], [], ["path", "label"], ["cat/1.jpg", "cat"]),
        {"cat/1.jpg": "cat"},
        table="labels.xlsx",
    ),
    "header below a comment": Case("# by me, 2024, v1\n\n" + PLAIN, CATS),
    "header below a title": Case("Fotos;;\n" + PLAIN.replace(",", ";").replace("\n", ";\n"), CATS),
    "joined files": Case(PLAIN + PLAIN, CATS),
    "header without the first name": Case(
        "path,label\n0,cat/1.jpg,cat\n1,dog/1.jpg,dog\n", message="lacks the name of a column"
    ),
    "blanks between columns": Case(
        "cat/1.jpg cat\n", message="blanks do not.*seems to be an image"
    ),
    "ids without a header": Case("00012,cat\n", message="names of the columns are needed above"),
    "web page": Case("<!DOCTYPE html>\n<html>login</html>\n", message="is HTML or XML"),
    "pointer of Git LFS": Case(
        "version https://git-lfs.github.com/spec/v1\noid sha256:a\n", message="git lfs pull"
    ),
    "JSON called CSV": Case(json_lines(*CAT_ROWS), message="extension .json or .jsonl"),
    "JSON key twice": Case(
        '{"path": "cat/1.jpg", "label": "cat", "label": "dog"}',
        message="line 1: the key 'label' stands twice",
        table="labels.jsonl",
    ),
    "JSON keys that differ in blanks": Case(
        '{"path": "cat/1.jpg", "label": "cat", "label ": "dog"}\n{"path": "x", "label": "dog"}',
        message="line 1: the key 'label' stands twice",
        table="labels.jsonl",
    ),
    "JSON of COCO": Case(
        json.dumps({"images": [{"id": 1}], "annotations": [{"id": 2}], "categories": []}),
        message="COCO format: write a table with a row per image$",
        table="labels.json",
    ),
    "old Excel": Case(
        b"\xd0\xcf\x11\xe0" + bytes(600), message="save it as .xlsx", table="labels.xls"
    ),
    "Parquet": Case(b"PAR1" + bytes(99), message="kind: parquet", table="labels.parquet"),
    "JSON lines": Case(json_lines(*CAT_ROWS), CATS, table="metadata.jsonl"),
    "JSON lines, blank lines": Case(
        json_lines(*CAT_ROWS).replace("\n", "\r\n\r\n"), CATS, table="metadata.ndjson"
    ),
    "JSON lines called JSON": Case(json_lines(*CAT_ROWS), CATS, table="labels.json"),
    "JSON array": Case(json.dumps(CAT_ROWS, indent=1), CATS, table="labels.json"),
    "JSON array with a mark": Case(
        b"\xef\xbb\xbf" + json.dumps(CAT_ROWS).encode(), CATS, table="labels.json"
    ),
    "JSON numbers and other columns": Case(
        json_lines(
            {"id": "00012", "label": 1, "objects": {"bbox": [1]}},
            {"label": 2, "id": "00013", "x": None},
        ),
        {"img/00012.png": "1", "img/00013.PNG": "2"},
        table="labels.jsonl",
        settings=BY_ID,
    ),
    "JSON list of labels": Case(
        json_lines({"path": "cat/1.jpg", "label": ["cat"]}),
        message=r"row 1: 'label' is \[\"cat\"\]",
        table="labels.jsonl",
    ),
    "JSON of columns": Case(
        json.dumps({"path": {"0": "cat/1.jpg"}, "label": {"0": "cat"}}),
        message="'path' is",
        table="labels.json",
    ),
    "JSON array of names": Case(
        '["cat/1.jpg"]', message="row 1 is .*not an object", table="labels.json"
    ),
    "damaged JSON": Case(
        '{"path": "cat/1.jpg",\n "label": "cat"}',
        message="line 1: .*one object per line",
        table="labels.json",
    ),
}
