"""Moves of aliases, as the history in the registry stores them."""

from __future__ import annotations

from components.records.base import Record
from components.records.evaluation import Comparison

MOVE_TAG = "kiln.move"
"""The tag of a version of a history that holds the move, as JSON."""


class Move(Record):
    """One move of an alias, as the history stores it.

    `source` and `target` are the versions before and after the move, None where the alias does not
    exist. `after` is the number of the last move that the author of this one had seen. `undoes` is
    the number of the move that a rollback reverts. `who` is the user and host of the operating
    system. `account` is the name that the tracking server has authenticated, None where there is no
    server; the server's authorization refuses a move with the name of another. `nonce` identifies
    the move: a random string.
    """

    alias: str
    source: int | None
    target: int | None
    after: int
    undoes: int | None
    who: str
    account: str | None = None
    when: str
    reason: str
    override: str | None
    verdict_sha256: str | None
    git_commit: str
    comparison: Comparison | None
    nonce: str

    def describe_author(self) -> str:
        """Return the user for display, with the account if there is one."""
        return f"{self.who} as {self.account}" if self.account else self.who
