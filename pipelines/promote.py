"""Move an alias (champion) to a better version, roll back, show history. (for users and CI)"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from components.console import echo, launch, print_table
from components.errors import UserError
from components.params import load_params
from components.params.names import require_alias, require_model_name
from components.registry import history, model_versions, promotion, verdicts
from components.registry.alias_state import AliasState, describe_version
from components.registry.promotion import PromotionDecision
from components.registry.reasons import require_reason
from components.tracking import store
from components.tracking.outages import explain_outage

if TYPE_CHECKING:
    from components.records.moves import Move
    from components.registry.alias_state import RecordedMove
    from components.tracking.store import MlflowClient

TEST = Path("data/prepared/test")
# Options that the two actions without a candidate honour. The others are refused with them.
_ROLLBACK_OPTIONS = ("--reason", "--expect-current", "--dry-run")
_HISTORY_OPTIONS: tuple[str, ...] = ()
# What to do after an outage of the store.
_UNCHANGED = "nothing was changed; repeat the command when it answers"
_RECORDED = (
    "look at `--history` when it answers: the move may be recorded, and if it was interrupted, "
    "repeating the command completes it"
)


@explain_outage(_UNCHANGED)
def promote(
    version: int | None,
    reason: str,
    name: str | None = None,
    alias: str | None = None,
    expect: int | None = None,
    override: str | None = None,
    dry_run: bool = False,
    test: Path = TEST,
) -> None:
    """Move an alias to a version.

    Args:
        version: The version, or None for the best that passed, by params promote.metric.
        reason: Kept in the history.
        name: The registered model, by default params register.name.
        alias: The alias, by default params promote.alias.
        expect: The version that the alias must name now, 0 for none. None skips this check.
        override: Reason for which the version is promoted in spite of objections.
        dry_run: Only show the decision.
        test: Folder of the candidate's test split, on which its evidence is computed again.

    Raises:
        UserError: An argument is wrong; the store does not answer; the version does not exist, was
            never evaluated or was altered since; another user moved the alias meanwhile; or,
            without an override, the version failed its gates or may be worse than the one that
            the alias names now.
    """
    _require_number("--version", version, at_least=1)
    _require_number("--expect-current", expect, at_least=0)
    require_reason("--reason", reason)
    if override is not None:
        require_reason("--override", override)
    params = load_params()
    name = params.register_.name if name is None else require_model_name(name)
    alias = params.promote.alias if alias is None else require_alias(alias)
    client = store.connect()
    if version is None:
        candidate = promotion.select_best(client, name, params.promote.metric)
    else:
        candidate = model_versions.get(client, name, version)
    number = int(candidate.version)
    state = _get_state(client, name, alias)
    if not (state.interrupted and number == state.expected_version):
        _require_expected(name, state, expect)
    if number == state.current_version == state.expected_version:
        echo(f"promote: {name}@{alias} is version {number} already; nothing to do")
        return
    baseline_version = state.baseline_version
    decision = promotion.check_candidate(client, candidate, alias, baseline_version, params, test)
    _show_decision(name, number, state, decision)
    if decision.objections and override is None:
        raise UserError(
            f"{name} version {number} is not promoted to {alias}: {'; '.join(decision.objections)}"
        )
    if dry_run:
        source = describe_version(state.effective_version)
        echo(
            f"promote: dry run, nothing was changed; {name}@{alias} would move from {source} to "
            f"{number}"
        )
        return
    used_override = override if decision.objections else None
    _carry_out(client, name, number, state, decision, reason, used_override)


def _carry_out(
    client: MlflowClient,
    name: str,
    number: int,
    state: AliasState,
    decision: PromotionDecision,
    reason: str,
    override: str | None,
) -> None:
    alias = state.alias
    if state.interrupted and number == state.expected_version:
        _complete(client, name, state)
        return
    verdict = decision.evidence.verdict
    comparison = decision.comparison
    move = promotion.build_move(
        state, number, reason, verdict=verdict, comparison=comparison, override=override
    )
    recorded = _move_alias(client, name, move)
    source = describe_version(state.effective_version)
    echo(
        f"promote: {name}@{alias} moved from {source} to version {number} (move "
        f"{recorded.number}): {reason}"
    )
    if override:
        echo(f"promote: OVERRIDDEN, recorded permanently: {override}")


@explain_outage(_RECORDED)
def _move_alias(client: MlflowClient, name: str, move: Move) -> RecordedMove:
    recorded = history.append(client, name, move)
    history.sync_alias(client, name, move.alias)
    return recorded


@explain_outage(_RECORDED)
def _complete(client: MlflowClient, name: str, state: AliasState, dry_run: bool = False) -> None:
    """Set an alias to the version of its last move, which was interrupted."""
    last = state.moves[-1]
    promotion.require_judged_version(client, name, last.move)
    move = f"move {last.number} to {describe_version(last.move.target)}"
    if dry_run:
        echo(f"promote: dry run, nothing was changed; {move} would be completed")
        return
    history.sync_alias(client, name, state.alias)
    echo(f"promote: {move} had been interrupted; it is complete now")


@explain_outage(_UNCHANGED)
def rollback(
    reason: str,
    name: str | None = None,
    alias: str | None = None,
    expect: int | None = None,
    dry_run: bool = False,
) -> None:
    """Take back the last move of an alias that was not taken back yet.

    A rollback never restores a version that failed its gates, unless an override promoted it. A
    rollback that was interrupted is completed, and takes back nothing more.

    Args:
        reason: Kept in the history.
        name: The registered model, by default params register.name.
        alias: The alias, by default params promote.alias.
        expect: The version that the alias must name now, 0 for none. None skips this check.
        dry_run: Only show what would happen.

    Raises:
        UserError: An argument is wrong; the store does not answer; the alias names another version
            than expected; there is no such move; or the version to return to is gone, was altered
            or failed its gates without ever being promoted by an override.
    """
    _require_number("--expect-current", expect, at_least=0)
    require_reason("--reason", reason)
    params = load_params()
    name = params.register_.name if name is None else require_model_name(name)
    client = store.connect()
    state = _get_state(client, name, params.promote.alias if alias is None else alias)
    alias = state.alias
    if state.interrupted and state.moves[-1].move.undoes is not None:
        _complete(client, name, state, dry_run)
        return
    _require_expected(name, state, expect)
    if not state.active_moves:
        raise UserError(f"{name}@{alias} has no move to take back")
    undone = state.active_moves[-1]
    target = state.get_version_before(undone)
    verdict = None
    if target is not None:
        verdict, _ = verdicts.load_verified(client, model_versions.get(client, name, target))
        if not verdict.passed and not state.was_overridden(verdict.version):
            raise UserError(
                f"{name}@{alias} does not return to version {target}: its verdict failed, and "
                "no override promoted it; promote another version"
            )
    if dry_run:
        echo(
            f"rollback: dry run, nothing was changed; {name}@{alias} would return to "
            f"{describe_version(target)}"
        )
        return
    move = promotion.build_move(state, target, reason, verdict=verdict, undoes=undone.number)
    recorded = _move_alias(client, name, move)
    echo(
        f"rollback: {name}@{alias} returned to {describe_version(target)} (move {recorded.number} "
        f"takes back {undone.number}): {reason}"
    )


@explain_outage("repeat the command when it answers")
def show_history(name: str | None = None, alias: str | None = None) -> None:
    """Print every move of an alias, and any difference between the alias and its history.

    Raises:
        UserError: An argument is wrong, or the store does not answer.
    """
    params = load_params()
    name = params.register_.name if name is None else require_model_name(name)
    client = store.connect()
    state = _read_state(client, name, params.promote.alias if alias is None else alias)
    alias = state.alias
    echo(f"moves of {name}@{alias}: {len(state.moves)}")
    for recorded in state.moves:
        for line in recorded.describe():
            echo(line)
    if inconsistency := state.find_inconsistency(name):
        echo(f"promote: {inconsistency}")
    for recorded in state.moves:
        target_version = recorded.move.target
        if target_version is not None and target_version not in state.versions:
            echo(
                f"promote: version {target_version} of move {recorded.number} was deleted from the "
                "registry"
            )
    echo(f"{name}@{alias} is {describe_version(state.current_version)}")


def _get_state(client: MlflowClient, name: str, alias: str) -> AliasState:
    """Return the state of an alias, and print a line if it differs from its history."""
    state = _read_state(client, name, alias)
    if inconsistency := state.find_inconsistency(name):
        echo(f"promote: {inconsistency}")
    return state


def _read_state(client: MlflowClient, name: str, alias: str) -> AliasState:
    """Return the state of an alias.

    Aliases of earlier versions of Kiln may have names that none can be moved to any more. They are
    shown and rolled back as they are.
    """
    state = history.get_alias_state(client, name, alias)
    if not state.moves and state.current_version is None:
        require_alias(alias)
    return state


def _require_expected(name: str, state: AliasState, expect: int | None) -> None:
    """Raise `UserError` unless the alias names the version that the user expects, 0 for none."""
    if expect is None:
        return
    expected = expect or None
    if state.effective_version != expected:
        raise UserError(
            f"{name}@{state.alias} is {describe_version(state.effective_version)}, not "
            f"{describe_version(expected)}: {_describe_last_move(state)}"
        )


def _describe_last_move(state: AliasState) -> str:
    if state.effective_version != state.expected_version:
        return "it was moved by hand"
    if not state.moves:
        return "it was never moved"
    return state.moves[-1].summarize()


def _show_decision(name: str, number: int, state: AliasState, decision: PromotionDecision) -> None:
    by_alias = state.baseline_version == state.current_version
    origin = f"{state.alias} now" if by_alias else "by the history"
    baseline = f"{origin} ({describe_version(state.baseline_version)})"
    title = f"{name} version {number} for {state.alias}"
    print_table(title, ["", f"version {number}", baseline], decision.table_rows())


def _require_number(option: str, number: int | None, at_least: int) -> None:
    if number is not None and number < at_least:
        raise UserError(f"{option} is {number}; give a number from {at_least} on")


def main(argv: list[str] | None = None) -> None:
    args = _build_parser().parse_args(argv)
    if args.history:
        _refuse_options(args, "--history", _HISTORY_OPTIONS)
        show_history(args.name, args.alias)
    elif args.rollback:
        _refuse_options(args, "--rollback", _ROLLBACK_OPTIONS)
        rollback(args.reason or "", args.name, args.alias, args.expect_current, args.dry_run)
    else:
        promote(
            args.version,
            args.reason or "",
            args.name,
            args.alias,
            args.expect_current,
            args.override,
            args.dry_run,
            args.test or TEST,
        )


def _refuse_options(args: argparse.Namespace, action: str, honoured: tuple[str, ...]) -> None:
    """Raise `UserError` if options were given that an action would ignore."""
    options = {
        "--reason": args.reason is not None,
        "--expect-current": args.expect_current is not None,
        "--override": args.override is not None,
        "--test": args.test is not None,
        "--dry-run": args.dry_run,
    }
    ignored = [option for option, given in options.items() if given and option not in honoured]
    if ignored:
        raise UserError(
            f"{action} does not take {', '.join(ignored)}; it takes "
            f"{', '.join((*honoured, '--name', '--alias'))}"
        )


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--version", type=int, help="promote this version")
    action.add_argument(
        "--best",
        action="store_true",
        help="promote the best version that passed, by params promote.metric",
    )
    action.add_argument("--rollback", action="store_true", help="take back the last move")
    action.add_argument("--history", action="store_true", help="show every move")
    parser.add_argument("--reason", help="why; kept in the history (needed to move anything)")
    parser.add_argument("--alias", help="which alias (default: params promote.alias)")
    parser.add_argument("--name", help="registered model (default: params register.name)")
    parser.add_argument(
        "--expect-current",
        type=int,
        metavar="N",
        help="only if the alias is version N now (0: none)",
    )
    parser.add_argument(
        "--override",
        metavar="WHY",
        help="promote against the verdict or the comparison; recorded permanently",
    )
    parser.add_argument(
        "--test",
        type=Path,
        help=f"folder of the candidate's test split (default: {TEST})",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show the decision and change nothing"
    )
    return parser


if __name__ == "__main__":
    launch(main)
