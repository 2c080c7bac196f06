"""Moves an alias (champion) to a version that passed and is not worse; rolls back; shows the history. (for a person or CI)"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from components.artifacts import Comparison, ModelVerdict, Move
from components.console import launch, say, table
from components.errors import UserError
from components.evaluation.compare import compare_evidence
from components.params import Params, load_params
from components.provenance import git_state
from components.tracking import history, registry, store


@dataclass(frozen=True)
class Decision:
    """What a promotion was judged on. `objections` is empty if nothing speaks against it."""

    verdict: ModelVerdict
    comparison: Comparison | None
    objections: list[str]


def promote(
    version: int | None,
    reason: str,
    name: str | None = None,
    alias: str | None = None,
    expect: int | None = None,
    override: str | None = None,
    dry_run: bool = False,
) -> None:
    """Moves `alias` to `version` (None: the best that passed, by params promote.metric).

    Raises:
        UserError: there is no such version, it was never evaluated, or it was altered since; somebody moved the alias
            meanwhile; or, unless overridden, it failed its gates or may be worse than who holds the alias now.
    """
    params = load_params()
    name, alias = name or params.register_.name, alias or params.promote.alias
    _require_text("--reason", reason)
    if override is not None:
        _require_text("--override", override)
    client = store.connect()
    candidate = registry.get(client, name, version) if version is not None else _best(client, name, params.promote.metric)
    number = int(candidate.version)
    current = history.state(client, name, alias)
    _tell_of_strangers(name, current)
    holder = current.holder
    if expect is not None and holder != expect:
        raise UserError(f"{name}@{alias} is {history.describe(holder)}, not version {expect}: {_who_moved(current)}")
    if number == current.now == current.expected:
        say(f"promote: {name}@{alias} is version {number} already; nothing to do")
        return
    decision = _judge(client, candidate, alias, current.rival, params)
    _show(name, alias, number, current.rival, decision)
    if decision.objections and override is None:
        raise UserError(f"{name} version {number} is not promoted to {alias}: {'; '.join(decision.objections)}")
    if dry_run:
        say(f"promote: dry run, nothing was changed; {name}@{alias} would move from {history.describe(holder)} to {number}")
        return
    if current.interrupted and number == current.expected:
        history.follow(client, name, alias)
        say(f"promote: move {current.entries[-1].number} to version {number} had been interrupted; it is complete now")
        return
    move = _move(
        alias,
        current,
        number,
        reason,
        verdict=decision.verdict,
        comparison=decision.comparison,
        override=override if decision.objections else None,
    )
    entry = history.append(client, name, move)
    history.follow(client, name, alias)
    say(f"promote: {name}@{alias} moved from {history.describe(holder)} to version {number} (move {entry.number}): {reason}")
    if decision.objections:
        say(f"promote: OVERRIDDEN, recorded for ever: {override}")


def rollback(reason: str, name: str | None = None, alias: str | None = None, dry_run: bool = False) -> None:
    """Takes back the last move of `alias` that was not taken back yet.

    Raises:
        UserError: there is none, or the version to return to is gone or was altered.
    """
    params = load_params()
    name, alias = name or params.register_.name, alias or params.promote.alias
    _require_text("--reason", reason)
    client = store.connect()
    current = history.state(client, name, alias)
    _tell_of_strangers(name, current)
    undone = current.undoable
    if undone is None:
        raise UserError(f"{name}@{alias} has no move to take back")
    target = undone.move.source
    verdict = registry.require_intact(registry.get(client, name, target)) if target is not None else None
    if dry_run:
        say(f"rollback: dry run, nothing was changed; {name}@{alias} would return to {history.describe(target)}")
        return
    move = _move(alias, current, target, reason, verdict=verdict, undoes=undone.number)
    entry = history.append(client, name, move)
    history.follow(client, name, alias)
    taken = f"move {entry.number} takes back {undone.number}"
    say(f"rollback: {name}@{alias} returned to {history.describe(target)} ({taken}): {reason}")


def show_history(name: str | None = None, alias: str | None = None) -> None:
    """Prints every move, and whether the alias stands where they lead."""
    params = load_params()
    name, alias = name or params.register_.name, alias or params.promote.alias
    client = store.connect()
    current = history.state(client, name, alias)
    rows = [
        [
            str(entry.number), entry.move.when, entry.move.who, history.describe(entry.move.source),
            history.describe(entry.move.target),
            entry.move.reason + (f" (takes back {entry.move.undoes})" if entry.move.undoes else "")
            + (f" [OVERRIDE: {entry.move.override}]" if entry.move.override else ""),
        ]
        for entry in current.entries
    ]  # fmt: skip
    table(f"{name}@{alias}", ["move", "when", "who", "from", "to", "why"], rows)
    _tell_of_strangers(name, current)
    there = {int(v.version) for v in registry.versions(client, name)}
    for entry in current.entries:
        if entry.move.target is not None and entry.move.target not in there:
            say(f"promote: version {entry.move.target} of move {entry.number} was deleted from the registry")
    say(f"{name}@{alias} is {history.describe(current.now)}")


def _judge(client: Any, candidate: Any, alias: str, rival: int | None, params: Params) -> Decision:
    """What speaks against a candidate. Raises `UserError` for what no override covers: no verdict, or other bytes."""
    verdict, settings = registry.require_intact(candidate), params.promote
    objections = [
        f"its verdict failed: {g.gate} is {g.threshold:g}, found {g.value:.4f}" for g in verdict.gates if not g.passed
    ]
    status = candidate.tags.get(registry.STATUS)
    if status != "passed" and not objections:
        objections.append(f"{registry.STATUS} is {status}")
    if rival is None or rival == int(candidate.version):
        return Decision(verdict, None, objections)
    found: Comparison | None = None
    reason = ""
    try:
        other = registry.get(client, candidate.name, rival)
        found = compare_evidence(
            (verdict, registry.predictions_of(candidate)),
            (registry.verdict_of(other), registry.predictions_of(other)),
            settings.max_regression,
            params.seed,
        )
    except UserError as error:
        reason = f"it cannot be compared with version {rival}: {error}"
    if found and not found.passed:
        reason = (
            f"it may be worse than version {rival} by {-100 * found.low:.2f} points of top-1 "
            f"(95 % interval {100 * found.low:+.2f} to {100 * found.high:+.2f}); "
            f"promote.max_regression allows {100 * found.max_regression:.2f}"
        )
    if reason and alias == settings.alias:
        objections.append(reason)
    return Decision(verdict, found, objections)


def _best(client: Any, name: str, metric: str) -> Any:
    passed = [v for v in registry.versions(client, name) if v.tags.get(registry.STATUS) == "passed"]
    if not passed:
        raise UserError(f"{name} has no version that passed; `dvc repro` evaluates what it registers")
    figures = {v.version: registry.verdict_of(v).metrics for v in passed}
    unknown = [number for number, values in figures.items() if metric not in values]
    if unknown:
        raise UserError(
            f"promote.metric is {metric}, which version {unknown[0]} was not judged by; known: {', '.join(figures[unknown[0]])}"
        )
    sign = -1 if metric in ("nll", "ece") else 1
    return max(passed, key=lambda v: (sign * figures[v.version][metric], -int(v.version)))


def _move(
    alias: str,
    current: history.State,
    target: int | None,
    reason: str,
    *,
    verdict: ModelVerdict | None,
    comparison: Comparison | None = None,
    override: str | None = None,
    undoes: int | None = None,
) -> Move:
    digest = hashlib.sha256(verdict.model_dump_json().encode()).hexdigest() if verdict else None
    return Move(
        alias=alias, source=current.holder, target=target, after=current.after, undoes=undoes,
        who=f"{getpass.getuser()}@{socket.gethostname()}", when=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason, override=override, verdict_sha256=digest, git_commit=git_state()["git.commit"],
        comparison=comparison, nonce=history.nonce(),
    )  # fmt: skip


def _tell_of_strangers(name: str, current: history.State) -> None:
    if current.interrupted:
        say(
            f"promote: move {current.entries[-1].number} of {name}@{current.alias} to "
            f"{history.describe(current.expected)} is under way or was interrupted; it counts as done"
        )
    elif current.now != current.expected:
        say(
            f"promote: {name}@{current.alias} is {history.describe(current.now)}, but its history leads to "
            f"{history.describe(current.expected)}: it was moved by hand, or its version was deleted"
        )


def _who_moved(current: history.State) -> str:
    if not current.entries or current.holder != current.expected:
        return "it was moved by hand"
    last = current.entries[-1].move
    return f"{last.who} moved it at {last.when} ({last.reason})"


def _show(name: str, alias: str, number: int, holder: int | None, decision: Decision) -> None:
    verdict, found = decision.verdict, decision.comparison
    rows = [["top-1", f"{verdict.metrics['top1']:.2%}", f"{found.champion_top1:.2%}" if found else "-"]]
    rows += [[g.gate, f"{g.value:.4f} ({'passed' if g.passed else 'failed'}, {g.threshold:g})", "-"] for g in verdict.gates]
    if found:
        rows += [
            ["right where the other is wrong", str(found.gained), str(found.lost)],
            ["difference, 95 % interval", f"{100 * found.low:+.2f} to {100 * found.high:+.2f} points", ""],
            ["McNemar's exact p", f"{found.p_value:.3g}", ""],
        ]
    holds = f"{alias} now ({history.describe(holder)})"
    table(f"{name} version {number} for {alias}", ["", f"version {number}", holds], rows)


def _require_text(option: str, text: str) -> None:
    if not text.strip():
        raise UserError(f"{option} is empty; say why, it is kept for ever")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--version", type=int, help="promote this version")
    what.add_argument("--best", action="store_true", help="promote the best version that passed, by params promote.metric")
    what.add_argument("--rollback", action="store_true", help="take back the last move")
    what.add_argument("--history", action="store_true", help="show every move")
    parser.add_argument("--reason", default="", help="why; kept in the history (needed to move anything)")
    parser.add_argument("--alias", help="which alias (default: params promote.alias)")
    parser.add_argument("--name", help="registered model (default: params register.name)")
    parser.add_argument("--expect-current", type=int, metavar="N", help="only if the alias is version N now")
    parser.add_argument("--override", metavar="WHY", help="promote against the verdict or the comparison; recorded for ever")
    parser.add_argument("--dry-run", action="store_true", help="show the decision and change nothing")
    args = parser.parse_args(argv)
    if args.history:
        show_history(args.name, args.alias)
    elif args.rollback:
        rollback(args.reason, args.name, args.alias, args.dry_run)
    else:
        promote(args.version, args.reason, args.name, args.alias, args.expect_current, args.override, args.dry_run)


if __name__ == "__main__":
    launch(main)
