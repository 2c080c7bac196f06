"""One alias in the registry, compared with the history of its moves."""

from __future__ import annotations

from dataclasses import dataclass

from components.printable import escape_unprintable
from components.records.moves import Move


@dataclass(frozen=True)
class RecordedMove:
    """A move and its number in the history."""

    number: int
    move: Move

    def describe(self) -> list[str]:
        """Return lines for display: number, time, user and versions, then the whole reason."""
        move = self.move
        versions = f"{describe_version(move.source)} -> {describe_version(move.target)}"
        suffix = f" (takes back {move.undoes})" if move.undoes else ""
        texts = [move.reason + suffix]
        if move.override:
            texts.append(f"OVERRIDE: {move.override}")
        details = [f"    {line}" for text in texts for line in text.splitlines()]
        heading = f"{self.number:>3} {move.when} {move.describe_author()}: {versions}"
        return [escape_unprintable(heading), *details]

    def summarize(self) -> str:
        """Return user, alias, target, time and reason on one line, for messages."""
        move = self.move
        return escape_unprintable(
            f"{move.describe_author()} moved {move.alias} to {describe_version(move.target)} at "
            f"{move.when} ({move.reason})"
        )


@dataclass(frozen=True)
class AliasState:
    """One alias in the registry, compared with its history.

    `current_version` is the version that the alias names, `expected_version` the version to which
    its history leads. Both are None for "no version". `moves` are the valid moves of this alias,
    oldest first. `last_number` is the number of the last valid move of any alias, 0 if there is
    none. `versions` are all versions in the registry.
    """

    alias: str
    current_version: int | None
    expected_version: int | None
    moves: list[RecordedMove]
    last_number: int
    versions: frozenset[int]

    @property
    def interrupted(self) -> bool:
        """True if the last move is recorded and the alias is still where the move began.

        The process that recorded it died before setting the alias, or is about to set it.
        """
        if not self.moves or self.current_version == self.expected_version:
            return False
        if self.expected_version is not None and self.expected_version not in self.versions:
            return False
        return self.current_version == self.moves[-1].move.source

    @property
    def effective_version(self) -> int | None:
        """The version of the alias, with an interrupted move counted as done."""
        return self.expected_version if self.interrupted else self.current_version

    @property
    def baseline_version(self) -> int | None:
        """The version that a candidate is compared with.

        It is the version to which the history leads, even if the alias was moved by hand since. If
        that version was deleted, it is the last one before it that still exists.
        """
        if self.expected_version is None:
            return self.current_version
        earlier = (recorded.move.target for recorded in reversed(self.active_moves))
        versions = [self.expected_version, *earlier]
        return next((v for v in versions if v in self.versions), self.current_version)

    @property
    def active_moves(self) -> list[RecordedMove]:
        """The moves without rollbacks and without the moves that a rollback took back."""
        undone = {recorded.move.undoes for recorded in self.moves}
        return [
            recorded
            for recorded in self.moves
            if recorded.move.undoes is None and recorded.number not in undone
        ]

    def get_version_before(self, recorded: RecordedMove) -> int | None:
        """Return the version of the alias before a move, according to the history.

        A version that was set by hand is not returned, so that a rollback does not restore it. The
        first move is the exception: the version from which it moved the alias is returned.
        """
        earlier = [other for other in self.moves if other.number < recorded.number]
        return earlier[-1].move.target if earlier else recorded.move.source

    def was_overridden(self, version: int) -> bool:
        """Return whether an override has ever promoted a version to this alias."""
        return any(
            recorded.move.target == version and recorded.move.override for recorded in self.moves
        )

    def find_inconsistency(self, name: str) -> str | None:
        """Return a message if the alias differs from its history, else None."""
        alias = f"{name}@{self.alias}"
        current = describe_version(self.current_version)
        expected = describe_version(self.expected_version)
        if self.interrupted:
            return (
                f"move {self.moves[-1].number} of {alias} to {expected} is under way or was "
                f"interrupted, or the alias was set back to {current} by hand; the move "
                "counts as done"
            )
        if self.current_version != self.expected_version:
            return (
                f"{alias} is {current}, but its history leads to {expected}: it was moved by hand, "
                "or its version was deleted"
            )
        return None


def describe_version(version: int | None) -> str:
    """Return "version N", or "nothing" if there is none."""
    return "nothing" if version is None else f"version {version}"
