"""Moves of aliases, as the history in the registry stores them."""

from __future__ import annotations

from components.records.base import Record
from components.records.evaluation import Comparison


class Move(Record):
    """One move of an alias, as the history stores it.

    `source` and `target` are the versions before and after the move, None where the alias does not
    exist. `after` is the number of the last move that the author of this one had seen. `undoes` is
    the number of the move that a rollback reverts. `nonce` identifies the move: a random string.
    """

    alias: str
    source: int | None
    target: int | None
    after: int
    undoes: int | None
    who: str
    when: str
    reason: str
    override: str | None
    verdict_sha256: str | None
    git_commit: str
    comparison: Comparison | None
    nonce: str
