"""Files of predictions: their columns, their values, and their replacement."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.data.sources.base import Refusal
from components.errors import UserError
from components.serving.predictor import PredictedImage
from components.serving.tables import (
    Row,
    make_refused_row,
    make_row,
    name_columns,
    open_table,
)

CLASSES = ["cat", "dog", "owl"]
SURE = PredictedImage('a,b "ü".jpg', np.array([0.1, 0.9, 0.0]))
UNSURE = PredictedImage("b.jpg", np.array([0.4, 0.2, 0.4]))
BROKEN = PredictedImage("c.jpg", Refusal("c.jpg", "damaged", "line\nbreak"))


def make_rows(top_k: int, threshold: float = 0.0) -> list[Row]:
    return [make_row(image, CLASSES, top_k, threshold) for image in (SURE, UNSURE, BROKEN)]


def write(path: Path, top_k: int, threshold: float) -> None:
    with open_table(path, top_k) as table:
        for row in make_rows(top_k, threshold):
            table.write([row])


def test_label_is_empty_below_the_threshold_and_the_top_classes_stay() -> None:
    sure, unsure, broken = make_rows(2, 0.41)
    assert (sure["label"], sure["probability"]) == ("dog", 0.9)
    assert (unsure["label"], unsure["probability"], unsure["error"]) == (None, 0.4, None)
    assert [unsure[f"label_{n}"] for n in (1, 2)] == ["cat", "owl"], "equal ones in class order"
    assert broken == make_refused_row(Refusal("c.jpg", "damaged", "line\nbreak"), 2)
    assert (broken["label"], broken["label_1"]) == (None, None)
    assert broken["error"] == "damaged: line\nbreak"
    assert make_rows(1, 0.4)[1]["label"] == "cat", "the threshold itself is enough"


def test_csv_has_a_row_per_image(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", 2, 0.5)
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "path", "label", "probability", "label_1", "probability_1", "label_2", "probability_2",
        "error",
    ]  # fmt: skip
    assert list(rows[0].values()) == [SURE.id, "dog", "0.9", "dog", "0.9", "cat", "0.1", ""]
    assert (rows[1]["label"], rows[1]["probability"]) == ("", "0.4")
    assert rows[2]["error"] == "damaged: line\nbreak"


def test_json_lines_and_parquet_have_nulls(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", 1, 0.5)
    lines = (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[0] == {"path": SURE.id, "label": "dog", "probability": 0.9, "error": None}
    assert (rows[1]["label"], rows[2]["probability"]) == (None, None)
    write(tmp_path / "x.parquet", 1, 0.5)
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == name_columns(1)
    assert [np.float32(row["probability"] or 0) for row in table.to_pylist()] == [
        np.float32(row["probability"] or 0) for row in rows
    ]
    assert table["label"].to_pylist() == ["dog", None, None]


def write_until_interrupted(path: Path) -> None:
    with open_table(path, 1) as table:
        table.write(make_rows(1))
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_interruption_keeps_the_old_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_until_interrupted(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_extensions_folders_and_unwritable_files_are_refused(tmp_path: Path) -> None:
    for path, message in {
        tmp_path / "x.txt": r"x\.txt: its extension .* give \.csv, \.jsonl, \.parquet$",
        tmp_path: "is a folder; give a file, such as .*labels.csv",
        Path("/proc/x.csv"): r"--out /proc/x\.csv cannot be written",
    }.items():
        with pytest.raises(UserError, match=message), open_table(path, 1):
            pass
