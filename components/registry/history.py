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

from mlflow import MlflowClient

from components.errors import UserError
from components.records.moves import MOVE_TAG, Move
from components.registry import HISTORY_SUFFIX, model_versions
from components.registry.alias_state import AliasState, RecordedMove
from components.tracking import store

_SYNC_ATTEMPTS = 20


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
        if number != expected or MOVE_TAG not in version.tags:
            raise UserError(
                f"the history {history_name} was tampered with: move {expected} is not there"
            )
        source = f"move {number} of {history_name}"
        move = Move.from_json(version.tags[MOVE_TAG], source, "upgrade Kiln")
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
    # MLflow requires an existing source. A move from a deleted version to none has the last move.
    number = move.target or move.source
    history_name = history_model_name(name)
    source = f"models:/{name}/{number}" if number else f"models:/{history_name}/{move.after}"
    tags = {MOVE_TAG: move.model_dump_json()}
    with store.explain_denial(f"move {name}@{move.alias} (nothing was changed)", "promoters"):
        ensure_history(client, name)
        client.create_model_version(history_name, source=source, tags=tags, await_creation_for=0)
    moves = read_moves(client, name)
    # The move is found by its nonce and not by the version number that the call returned. If the
    # reply was lost, the client has repeated the call and written the move twice.
    for recorded in moves:
        if recorded.move.nonce == move.nonce:
            return recorded
    first = next(recorded for recorded in moves if recorded.number > move.after)
    raise UserError(
        f"another user was quicker: {first.summarize()}; nothing was changed, look at `--history` "
        "and decide again"
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
