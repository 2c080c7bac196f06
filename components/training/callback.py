"""What the loop asks of the world around it, so that it runs alone, under Ray and in tests alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _nothing(*_: Any) -> None:
    """For whoever trains in one process and wants no more than the result."""


def _no() -> bool:
    return False


@dataclass(frozen=True)
class Surroundings:
    """`emit` takes plain dictionaries on rank 0 (`probe`, `step`, `epoch`, `resumed`, `early`); `alive` is called on every
    rank with each sign of progress; `save` on rank 0 with the state to keep, and whether to wait until it is safe; `due` on
    rank 0, with the global step; `leaving` (this machine is about to go: keep the state now) and `stop` on every rank.
    """

    emit: Callable[[dict[str, Any]], None] = _nothing
    alive: Callable[[], None] = _nothing
    save: Callable[[dict[str, Any], bool], None] = _nothing
    due: Callable[[int], bool] = lambda _: False
    leaving: Callable[[], bool] = _no
    stop: Callable[[], bool] = _no


ALONE = Surroundings()
