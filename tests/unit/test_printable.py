"""Characters that a terminal obeys or hides are shown as escapes."""

from __future__ import annotations

import pytest

from components.printable import escape_unprintable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x7f\x9b2J\x00", r"\x7f\x9b2J\x00"),
        ("a\rb\nc\td\x85e", r"a\rb\nc\td\x85e"),
        ("one\u2028two\u2029", r"one\u2028two\u2029"),
        ("\u202ename\u202c \u2066x\u2069 \u200e", r"\u202ename\u202c \u2066x\u2069 \u200e"),
        ("ze\u200bro\u2060\ufeff\u00ad", r"ze\u200bro\u2060\ufeff\xad"),
        ("bytes \udcff", r"bytes \udcff"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_unprintable_character_is_escaped(text: str, shown: str) -> None:
    assert escape_unprintable(text) == shown


@pytest.mark.parametrize("text", ["", "plain", "Grün, 日本語\u3000だ", "a\u00a0b", "e\u0301", "🙂"])
def test_printable_text_is_left_alone(text: str) -> None:
    assert escape_unprintable(text) == text


def test_wanted_characters_are_kept() -> None:
    assert escape_unprintable("a\n\tb\r", keep="\n\t") == "a\n\tb\\r"
