"""Append-only history of the moves of aliases, in the registry itself.

The moves of the aliases of `<name>` are the versions of the registered model `<name>-history`. The
registry assigns version numbers one after the other, so that all processes see the moves in the
same order. A move contains the number of the last move that its author knew (`after`). If another
move came between, it is void for all readers. This makes `append` a compare-and-swap: of two users
who move an alias at the same time, one gets an error that describes the other's move.

A move is appended before the alias is set. A process that dies in between leaves an alias that
differs from its history. `get_alias_state` reports this and the next move repairs it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlflow import MlflowClient

from components.errors import UserError
from components.records.moves import Move
from components.registry import HISTORY_SUFFIX, model_versions
from components.tracking import store

_MOVE_TAG = "kiln.move"
_SYNC_ATTEMPTS = 20


@dataclass(frozen=True)
class RecordedMove:
    """A move and its number in the history."""

    number: int
    move: Move

    def table_row(self) -> list[str]:
        """Return number, time, user, source, target and reason, for display."""
        move = self.move
        reason = move.reason
        if move.undoes:
            reason += f" (takes back {move.undoes})"
        if move.override:
            reason += f" [OVERRIDE: {move.override}]"
        versions = [describe_version(move.source), describe_version(move.target)]
        return [str(self.number), move.when, move.who, *versions, reason]


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


def history_model_name(name: str) -> str:
    """Return the name of the registered model that holds the history of another."""
    return name + HISTORY_SUFFIX


def read_moves(client: MlflowClient, name: str) -> list[RecordedMove]:
    """Return the valid moves of all aliases of a registered model, oldest first.

    Raises:
        UserError: A move is missing or unreadable: the history was altered.
    """
    history_name = history_model_name(name)
    moves: list[RecordedMove] = []
    last_number = 0
    for expected, version in enumerate(model_versions.list_versions(client, history_name), 1):
        number = int(version.version)
        if number != expected or _MOVE_TAG not in version.tags:
            raise UserError(
                f"the history {history_name} was tampered with: move {expected} is not there"
            )
        move = Move.model_validate_json(version.tags[_MOVE_TAG])
        if move.after == last_number:
            moves.append(RecordedMove(number, move))
            last_number = number
    return moves


def get_alias_state(client: MlflowClient, name: str, alias: str) -> AliasState:
    """Return the version that an alias names and the version to which its history leads."""
    all_moves = read_moves(client, name)
    moves = [recorded for recorded in all_moves if recorded.move.alias == alias]
    versions = model_versions.list_versions(client, name)
    return AliasState(
        alias=alias,
        current_version=model_versions.get_aliases(client, name).get(alias),
        expected_version=moves[-1].move.target if moves else None,
        moves=moves,
        last_number=all_moves[-1].number if all_moves else 0,
        versions=frozenset(int(version.version) for version in versions),
    )


def ensure_history(client: MlflowClient, name: str) -> None:
    """Create the registered model that holds the moves, if it does not exist."""
    model_versions.ensure_registered_model(
        client,
        history_model_name(name),
        f"Every move of an alias of {name}, one version each. Written by Kiln; never edit it.",
    )


def append(client: MlflowClient, name: str, move: Move) -> RecordedMove:
    """Append a move to the history.

    Raises:
        UserError: Another move came first. The message describes it.
    """
    source = f"models:/{name}/{move.target or move.source}"
    tags = {_MOVE_TAG: move.model_dump_json()}
    with store.explain_denial(f"move {name}@{move.alias} (nothing was changed)", "promoters"):
        ensure_history(client, name)
        client.create_model_version(
            history_model_name(name), source=source, tags=tags, await_creation_for=0
        )
    moves = read_moves(client, name)
    # The move is found by its nonce and not by the version number that the call returned. If the
    # reply was lost, the client has repeated the call and written the move twice.
    for recorded in moves:
        if recorded.move.nonce == move.nonce:
            return recorded
    first = next(recorded for recorded in moves if recorded.number > move.after).move
    raise UserError(
        f"{first.who} was quicker: {first.alias} moved to {describe_version(first.target)} at "
        f"{first.when} ({first.reason}); nothing was changed, look at `--history` and decide again"
    )


@store.explain_denial(
    "set an alias (the move is in the history; who may set it completes it)", "promoters"
)
def sync_alias(client: MlflowClient, name: str, alias: str) -> int | None:
    """Set an alias to the version to which its history leads, and return that version.

    Reads the history again after setting the alias. If several processes set it at the same time,
    the last recorded move therefore wins.

    Raises:
        UserError: The alias changes again after each of 20 attempts.
    """
    for _ in range(_SYNC_ATTEMPTS):
        state = get_alias_state(client, name, alias)
        if state.current_version == state.expected_version:
            return state.current_version
        if state.expected_version is None:
            client.delete_registered_model_alias(name, alias)
        else:
            client.set_registered_model_alias(name, alias, str(state.expected_version))
    raise UserError(f"{name}@{alias} does not stay where it is set; another user keeps moving it")


def describe_version(version: int | None) -> str:
    """Return "version N", or "nothing" if there is none."""
    return "nothing" if version is None else f"version {version}"
