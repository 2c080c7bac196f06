"""Texts that the history keeps, and the room for them in a tag of MLflow."""

from __future__ import annotations

import pytest
from mlflow.utils.validation import MAX_MODEL_REGISTRY_TAG_VALUE_LENGTH

from components.errors import UserError
from components.records.evaluation import Comparison
from components.records.moves import Move
from components.registry.reasons import MAX_LENGTH, require_reason

COLUMN_OF_MYSQL = 65_535
"""Bytes of a TEXT, the smallest column in which MLflow keeps tags of versions."""
COMPARISON = Comparison(
    images=10**9,
    candidate_top1=1 / 3,
    champion_top1=1 / 3,
    gained=10**9,
    lost=10**9,
    low=-1e-300 / 3,
    high=1e-300 / 3,
    p_value=1e-300 / 3,
    max_regression=1 / 3,
    passed=False,
)


def make_longest_move(text: str) -> Move:
    return Move(
        alias="a" * 63,
        source=2**31 - 1,
        target=2**31 - 1,
        after=2**31 - 1,
        undoes=2**31 - 1,
        who=f"{'u' * 256}@{'h' * 253}",
        when="2026-01-01T00:00:00+00:00",
        reason=text,
        override=text,
        verdict_sha256="a" * 64,
        git_commit="c" * 64,
        comparison=COMPARISON,
        nonce="n" * 32,
    )


@pytest.mark.parametrize("character", ["x", '"', "\\", "\n", "\t"], ids=ascii)
def test_longest_reason_and_override_fit_into_a_tag(character: str) -> None:
    text = character * (MAX_LENGTH - 1) + "x"
    require_reason("--reason", text)
    stored = make_longest_move(text).model_dump_json()
    assert len(stored) <= MAX_MODEL_REGISTRY_TAG_VALUE_LENGTH
    assert len(stored.encode()) <= COLUMN_OF_MYSQL


@pytest.mark.parametrize(
    "text", ["better", "größer, 更好, أفضل", "two\nlines\tand a tab", "👩‍👩‍👧", "x" * MAX_LENGTH]
)
def test_text_in_any_language_is_kept(text: str) -> None:
    require_reason("--reason", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--reason is empty; give a reason"),
        (" \n\t", "--reason is empty"),
        ("x" * 200_000, r"--reason has 200,000 characters, .* at most 10,000; shorten it"),
        ("good \udce9", r"--reason is not UTF-8 at character 6 \('\\udce9'\); write it in UTF-8"),
        ("a\x00b", r"--reason has the control character U\+0000 at character 2"),
        ("\x1b[2Jall is well", r"control character U\+001B at character 1"),
        ("a\rb", r"U\+000D"),
        ("a\x9b31m", r"U\+009B"),
        ("safe\u202egpj.exe", r"U\+202E at character 5"),
    ],
    ids=range(9),
)
def test_other_text_is_refused_in_one_printable_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        require_reason("--reason", text)
    assert str(caught.value).isprintable()
