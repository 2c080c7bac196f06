"""`predict`: arguments that are refused before anything is read or downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.errors import UserError
from pipelines import predict

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos", "--out", "x.txt"], r"--out x\.txt: its extension"),
        (["x.csv", "--out", "x.csv"], r"--out x\.csv is SOURCE itself"),
        (["photos", "--out", "x.csv", "--top-k", "0"], "--top-k is 0; give a number from 1 on"),
        (["photos", "--out", "x.csv", "--threshold", "1.5"], "--threshold is 1.5; give a prob"),
        (["photos", "--out", "x.csv", "--threshold", "nan"], "--threshold is nan; give a prob"),
        (["photos", "--out", "x.csv"], "SOURCE: photos is not a file or folder"),
    ],
)
def test_wrong_arguments_are_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS, tmp_path / "params.yaml")
    Path("x.csv").write_text("path\n")
    with pytest.raises(UserError, match=message):
        predict.main([*words, "--model", "task@champion"])
    assert Path("x.csv").read_text() == "path\n"


def test_tally_counts_each_kind_of_row_once() -> None:
    tally = predict.Tally(total=4)
    tally.add(
        [
            {"label": "cat", "error": None},
            {"label": None, "error": None},
            {"label": None, "error": "damaged"},
        ]
    )
    assert tally.share == 0.75
    assert tally.describe().startswith("1 labelled, 1 below the threshold, 1 not usable (3/4, ")
