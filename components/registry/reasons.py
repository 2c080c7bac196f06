"""Check of the texts that the history keeps: the reason of a move and that of an override."""

from __future__ import annotations

import unicodedata

from components.errors import UserError

MAX_LENGTH = 10_000
"""Characters of a reason.

A move is one tag of a model version, for which MLflow allows 100,000 characters
(`MAX_MODEL_REGISTRY_TAG_VALUE_LENGTH`). JSON takes up to two for each character that is allowed
here, and a move has two such texts beside about 2,000 characters of other fields. 44,000 bytes of
other alphabets still fit into the 65,535 of a column of MySQL.
"""
_ALLOWED_CONTROLS = "\n\t"
_UNPRINTABLE = ("Cc", "Cs")  # control characters and halves of surrogate pairs
_OVERRIDES_DIRECTION = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def require_reason(option: str, text: str) -> None:
    """Check a text before it is kept in the history.

    Args:
        option: The option that the user gave it with, for the message.
        text: The text. Arguments that are not UTF-8 have surrogates (PEP 383).

    Raises:
        UserError: The text is empty, longer than `MAX_LENGTH`, not UTF-8, or has characters that
            control a terminal.
    """
    if not text.strip():
        raise UserError(f"{option} is empty; give a reason, it is kept permanently")
    if len(text) > MAX_LENGTH:
        raise UserError(
            f"{option} has {len(text):,} characters, and the history keeps at most {MAX_LENGTH:,}; "
            "shorten it, and name the place of the whole text"
        )
    character = next((c for c in text if _is_refused(c)), None)
    if character is None:
        return
    place = f"at character {text.index(character) + 1:,}"
    if unicodedata.category(character) == "Cs":
        raise UserError(f"{option} is not UTF-8 {place} ({character!r}); write it in UTF-8")
    raise UserError(
        f"{option} has the control character U+{ord(character):04X} {place}; the history keeps "
        "text, line breaks and tabs only"
    )


def _is_refused(character: str) -> bool:
    if character in _ALLOWED_CONTROLS:
        return False
    if unicodedata.category(character) in _UNPRINTABLE:
        return True
    return unicodedata.bidirectional(character) in _OVERRIDES_DIRECTION
