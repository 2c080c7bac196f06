"""The state of an alias, derived from its moves."""

from __future__ import annotations

from components.records.moves import Move
from components.registry.alias_state import AliasState, RecordedMove


def make_move(
    source: int | None,
    target: int | None,
    *,
    after: int = 0,
    undoes: int | None = None,
    override: str | None = None,
) -> Move:
    return Move(
        alias="champion",
        source=source,
        target=target,
        after=after,
        undoes=undoes,
        who="alice@host",
        when="2026-01-01T00:00:00+00:00",
        reason="better",
        override=override,
        verdict_sha256=None,
        git_commit="c",
        comparison=None,
        nonce=f"{source}-{target}-{after}",
    )


def make_state(
    current: int | None, *moves: Move, existing: tuple[int, ...] = (1, 2, 3)
) -> AliasState:
    recorded = [RecordedMove(number, move) for number, move in enumerate(moves, 1)]
    expected = moves[-1].target if moves else None
    return AliasState("champion", current, expected, recorded, len(moves), frozenset(existing))


def test_alias_that_follows_its_history_is_consistent() -> None:
    state = make_state(2, make_move(None, 1), make_move(1, 2))
    assert not state.interrupted
    assert state.find_inconsistency("task") is None
    assert (state.effective_version, state.baseline_version) == (2, 2)


def test_alias_without_history_is_compared_with_its_current_version() -> None:
    assert make_state(None).baseline_version is None
    assert make_state(3).baseline_version == 3


def test_move_without_its_alias_is_interrupted_and_counts_as_done() -> None:
    state = make_state(1, make_move(None, 1), make_move(1, 2))
    assert state.interrupted
    assert state.effective_version == 2
    message = state.find_inconsistency("task")
    assert message is not None
    assert message.startswith("move 2 of task@champion to version 2 is under way or was interrupt")


def test_hand_moved_alias_is_inconsistent_and_the_history_gives_the_baseline() -> None:
    state = make_state(3, make_move(None, 1), make_move(1, 2))
    assert not state.interrupted
    assert (state.effective_version, state.baseline_version) == (3, 2)
    message = state.find_inconsistency("task")
    assert message is not None
    assert "is version 3, but its history leads to version 2" in message


def test_baseline_of_a_deleted_version_is_the_last_existing_one() -> None:
    moves = (make_move(None, 1), make_move(1, 2), make_move(2, 3))
    assert make_state(None, *moves, existing=(1, 2)).baseline_version == 2
    assert make_state(None, *moves, existing=(1,)).baseline_version == 1
    assert make_state(None, *moves, existing=()).baseline_version is None


def test_move_to_a_deleted_version_is_not_interrupted() -> None:
    assert not make_state(1, make_move(None, 1), make_move(1, 2), existing=(1,)).interrupted


def test_rollback_removes_a_move_and_itself_from_the_active_moves() -> None:
    state = make_state(1, make_move(None, 1), make_move(1, 2), make_move(2, 1, undoes=2))
    assert [recorded.number for recorded in state.active_moves] == [1]


def test_version_before_a_move_is_that_of_the_history_and_not_one_set_by_hand() -> None:
    state = make_state(2, make_move(3, 1), make_move(3, 2))
    first, second = state.moves
    assert state.get_version_before(second) == 1
    assert state.get_version_before(first) == 3, "the history begins with what the move found"


def test_override_is_remembered_for_its_version_only() -> None:
    state = make_state(2, make_move(None, 1, override="needed"), make_move(1, 2))
    assert state.was_overridden(1)
    assert not state.was_overridden(2)


def test_description_shows_override_rollback_and_the_whole_reason() -> None:
    long = "see https://example.org/" + "x" * 300
    move = make_move(None, 2, undoes=3, override="needed").model_copy(
        update={"reason": f"two\nlines, {long}"}
    )
    assert RecordedMove(4, move).describe() == [
        "  4 2026-01-01T00:00:00+00:00 alice@host: nothing -> version 2",
        "    two",
        f"    lines, {long} (takes back 3)",
        "    OVERRIDE: needed",
    ]


def test_foreign_texts_forge_no_line() -> None:
    forged = "x\n  5 2026-01-02T00:00:00+00:00 bob@host: version 2 -> version 3"
    recorded = RecordedMove(
        4, make_move(None, 2).model_copy(update={"reason": forged, "who": forged})
    )
    heading, *reason = recorded.describe()
    assert heading.startswith("  4 2026-01-01T00:00:00+00:00 x\\n  5 2026")
    assert all(line.startswith("    ") for line in reason)
    assert recorded.summarize().isprintable()
