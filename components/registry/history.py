"""Every move of an alias, append-only, in the registry: `<name>-history`, a registered model whose versions are the moves.

The registry hands out version numbers one by one, so that the moves have one order for everybody. A move names the one
that its author knew as the last (`after`); if another came between, it is void, for everybody alike. That is the compare
and swap: of two people who move an alias at the same moment, one is told of the other.

A move is written before the alias is set. Whoever dies in between leaves an alias that does not follow its history, which
`state` tells and the next move mends.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from mlflow import MlflowClient

from components.errors import UserError
from components.records.registry import Move
from components.registry import HISTORY_SUFFIX, model_versions
from components.tracking import store

_TAG = "kiln.move"


@dataclass(frozen=True)
class Entry:
    """A move and its number."""

    number: int
    move: Move


@dataclass(frozen=True)
class State:
    """One alias: where it stands, where its history says that it should, and the moves that led there."""

    alias: str
    now: int | None
    expected: int | None
    entries: list[Entry]
    # The number of the last move of any alias, and the versions that are in the registry.
    after: int
    there: frozenset[int]

    @property
    def interrupted(self) -> bool:
        """The last move is written and the alias not yet set: its author died in between, or is about to set it."""
        there = self.expected is None or self.expected in self.there
        return bool(self.entries) and there and self.now != self.expected and self.now == self.entries[-1].move.source

    @property
    def holder(self) -> int | None:
        """Who counts as holding the alias: an unfinished move counts as done, for it was decided."""
        return self.expected if self.interrupted else self.now

    @property
    def rival(self) -> int | None:
        """Whom a candidate is compared with: where the history leads, even if somebody moved the alias by hand since; if that
        version was deleted, whoever stood there before it."""
        if not self.entries or self.expected is None:
            return self.now
        stood = [self.expected, *(entry.move.target for entry in reversed(self.live))]
        return next((version for version in stood if version in self.there), self.now)

    @property
    def live(self) -> list[Entry]:
        """The moves that are neither taken back nor the taking back of another."""
        undone = {entry.move.undoes for entry in self.entries}
        return [entry for entry in self.entries if entry.move.undoes is None and entry.number not in undone]

    def before(self, entry: Entry) -> int | None:
        """Where the alias stood before a move: where the history led then, so that what was set by hand does not come back.
        Only before the first move is it what was found there."""
        earlier = [other for other in self.entries if other.number < entry.number]
        return earlier[-1].move.target if earlier else entry.move.source

    def overridden(self, version: int) -> bool:
        """Whether somebody has put a version here against what spoke against it, and said why."""
        return any(entry.move.target == version and entry.move.override for entry in self.entries)

    def doubt(self, name: str) -> str | None:
        """How the alias came to stand elsewhere than its history leads."""
        if self.interrupted:
            return (
                f"move {self.entries[-1].number} of {name}@{self.alias} to {describe(self.expected)} is under way or was "
                f"interrupted, or somebody has set the alias back to {describe(self.now)} by hand; the move counts as done"
            )
        if self.now != self.expected:
            return (
                f"{name}@{self.alias} is {describe(self.now)}, but its history leads to {describe(self.expected)}: "
                "it was moved by hand, or its version was deleted"
            )
        return None


def ledger(name: str) -> str:
    return name + HISTORY_SUFFIX


def read(client: MlflowClient, name: str) -> list[Entry]:
    """Every valid move of every alias, in order.

    Raises:
        UserError: a record is missing or cannot be read: somebody cut the history.
    """
    entries: list[Entry] = []
    last = 0
    for expected, version in enumerate(model_versions.versions(client, ledger(name)), 1):
        number = int(version.version)
        if number != expected or _TAG not in version.tags:
            raise UserError(f"the history {ledger(name)} was tampered with: move {expected} is not there")
        move = Move.model_validate_json(version.tags[_TAG])
        if move.after == last:
            entries.append(Entry(number, move))
            last = number
    return entries


def state(client: MlflowClient, name: str, alias: str) -> State:
    """Where an alias stands, and where its history says that it stands."""
    everything = read(client, name)
    entries = [entry for entry in everything if entry.move.alias == alias]
    expected = entries[-1].move.target if entries else None
    there = frozenset(int(version.version) for version in model_versions.versions(client, name))
    after = everything[-1].number if everything else 0
    return State(alias, model_versions.aliases(client, name).get(alias), expected, entries, after, there)


def begin(client: MlflowClient, name: str) -> None:
    """Makes the registered model that holds the moves, unless it is there."""
    model_versions.ensure(
        client, ledger(name), f"Every move of an alias of {name}, one version each. Written by Kiln; never edit it."
    )


def append(client: MlflowClient, name: str, move: Move) -> Entry:
    """Adds a move to the history.

    Raises:
        UserError: another move came first; says whose.
    """
    source, tags = f"models:/{name}/{move.target or move.source}", {_TAG: move.model_dump_json()}
    with store.permitted(f"move {name}@{move.alias} (nothing was changed)", "promoters"):
        begin(client, name)
        client.create_model_version(ledger(name), source=source, tags=tags, await_creation_for=0)
    entries = read(client, name)
    # By its nonce and not by the number that came back: if the reply was lost, the client has written the move twice.
    for entry in entries:
        if entry.move.nonce == move.nonce:
            return entry
    first = next(entry for entry in entries if entry.number > move.after)
    raise UserError(
        f"{first.move.who} was quicker: {first.move.alias} moved to {describe(first.move.target)} at {first.move.when} "
        f"({first.move.reason}); nothing was changed, look at `--history` and decide again"
    )


@store.permitted("set an alias (the move is in the history; who may set it completes it)", "promoters")
def follow(client: MlflowClient, name: str, alias: str) -> int | None:
    """Sets an alias to where the history says, and looks again, so that the last of several movers is the one that counts."""
    for _ in range(20):
        current = state(client, name, alias)
        if current.now == current.expected:
            return current.now
        if current.expected is None:
            client.delete_registered_model_alias(name, alias)
        else:
            client.set_registered_model_alias(name, alias, str(current.expected))
    raise UserError(f"{name}@{alias} does not stay where it is set; somebody else keeps moving it")


def describe(version: int | None) -> str:
    return "nothing" if version is None else f"version {version}"


def nonce() -> str:
    return uuid.uuid4().hex
