"""Characters that a terminal would obey or hide, shown as escapes."""

from __future__ import annotations

import unicodedata


def escape_unprintable(text: str, keep: str = "") -> str:
    r"""Return `text` with each character that is not printable replaced by its escape, as `\x1b`.

    Not printable are control characters, line separators, marks of the writing direction,
    characters of no width and surrogates, by which Python represents bytes that are no text
    (`str.isprintable`). Blanks of any width are printable. The characters of `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(char if _is_shown(char) or char in keep else _escape(char) for char in text)


def _is_shown(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
