"""Move an alias (champion) to a better version, roll back, show history. (for users and CI)"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from components.console import echo, launch, print_table
from components.errors import UserError
from components.params import load_params
from components.registry import history, model_versions, promotion, verdicts
from components.registry.history import AliasState, describe_version
from components.registry.promotion import PromotionDecision
from components.tracking import store

if TYPE_CHECKING:
    from components.tracking.store import MlflowClient

TEST = Path("data/prepared/test")


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
        test: Folder of the candidate's test split. It is read only if the version that the alias
            names now was evaluated on another split.

    Raises:
        UserError: The version does not exist, was never evaluated or was altered since; another
            user moved the alias meanwhile; or, without an override, the version failed its gates
            or may be worse than the one that the alias names now.
    """
    params = load_params()
    name = name or params.register_.name
    alias = alias or params.promote.alias
    _require_text("--reason", reason)
    if override is not None:
        _require_text("--override", override)
    client = store.connect()
    if version is None:
        candidate = promotion.select_best(client, name, params.promote.metric)
    else:
        candidate = model_versions.get(client, name, version)
    number = int(candidate.version)
    state = _get_state(client, name, alias)
    if expect is not None:
        _require_expected(name, state, expect or None)
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
        history.sync_alias(client, name, alias)
        echo(
            f"promote: move {state.moves[-1].number} to version {number} had been interrupted; it "
            "is complete now"
        )
        return
    verdict = decision.verdict
    comparison = decision.comparison
    move = promotion.build_move(
        state, number, reason, verdict=verdict, comparison=comparison, override=override
    )
    recorded = history.append(client, name, move)
    history.sync_alias(client, name, alias)
    source = describe_version(state.effective_version)
    echo(
        f"promote: {name}@{alias} moved from {source} to version {number} (move "
        f"{recorded.number}): {reason}"
    )
    if override:
        echo(f"promote: OVERRIDDEN, recorded permanently: {override}")


def rollback(
    reason: str, name: str | None = None, alias: str | None = None, dry_run: bool = False
) -> None:
    """Take back the last move of an alias that was not taken back yet.

    A rollback never restores a version that failed its gates, unless an override promoted it.

    Raises:
        UserError: There is no such move, or the version to return to is gone, was altered or
            failed its gates without ever being promoted by an override.
    """
    params = load_params()
    name = name or params.register_.name
    alias = alias or params.promote.alias
    _require_text("--reason", reason)
    client = store.connect()
    state = _get_state(client, name, alias)
    if not state.active_moves:
        raise UserError(f"{name}@{alias} has no move to take back")
    undone = state.active_moves[-1]
    target = state.get_version_before(undone)
    verdict = None
    if target is not None:
        verdict, _ = verdicts.load_verified(model_versions.get(client, name, target))
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
    recorded = history.append(client, name, move)
    history.sync_alias(client, name, alias)
    echo(
        f"rollback: {name}@{alias} returned to {describe_version(target)} (move {recorded.number} "
        f"takes back {undone.number}): {reason}"
    )


def show_history(name: str | None = None, alias: str | None = None) -> None:
    """Print every move of an alias, and any difference between the alias and its history."""
    params = load_params()
    name = name or params.register_.name
    alias = alias or params.promote.alias
    client = store.connect()
    state = history.get_alias_state(client, name, alias)
    rows = [recorded.table_row() for recorded in state.moves]
    print_table(f"{name}@{alias}", ["move", "when", "who", "from", "to", "why"], rows)
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
    state = history.get_alias_state(client, name, alias)
    if inconsistency := state.find_inconsistency(name):
        echo(f"promote: {inconsistency}")
    return state


def _require_expected(name: str, state: AliasState, expected: int | None) -> None:
    """Raise `UserError` unless the alias names the version that the user expects."""
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
    move = state.moves[-1].move
    return f"{move.who} moved it at {move.when} ({move.reason})"


def _show_decision(name: str, number: int, state: AliasState, decision: PromotionDecision) -> None:
    by_alias = state.baseline_version == state.current_version
    origin = f"{state.alias} now" if by_alias else "by the history"
    baseline = f"{origin} ({describe_version(state.baseline_version)})"
    title = f"{name} version {number} for {state.alias}"
    print_table(title, ["", f"version {number}", baseline], decision.table_rows())


def _require_text(option: str, text: str) -> None:
    if not text.strip():
        raise UserError(f"{option} is empty; give a reason, it is kept permanently")


def main(argv: list[str] | None = None) -> None:
    args = _build_parser().parse_args(argv)
    if args.history:
        show_history(args.name, args.alias)
    elif args.rollback:
        rollback(args.reason, args.name, args.alias, args.dry_run)
    else:
        promote(
            args.version,
            args.reason,
            args.name,
            args.alias,
            args.expect_current,
            args.override,
            args.dry_run,
            args.test,
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
    parser.add_argument(
        "--reason", default="", help="why; kept in the history (needed to move anything)"
    )
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
        default=TEST,
        help=f"folder of the candidate's test split (default: {TEST})",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show the decision and change nothing"
    )
    return parser


if __name__ == "__main__":
    launch(main)
