"""Moves an alias (champion) to a version that passed and is not worse; rolls back; shows the history. (for a person or CI)"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from components.console import launch, say, table
from components.errors import UserError
from components.params import load_params
from components.registry import history, model_versions, promotion
from components.registry.promotion import Decision
from components.tracking import store

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
    """Moves `alias` to `version` (None: the best that passed, by params promote.metric). `test` has the candidate's test split;
    it is looked at only if who holds the alias was judged on another. `expect` is the version that the alias must be now, 0 if
    it must not be there.

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
    candidate = (
        model_versions.get(client, name, version)
        if version is not None
        else promotion.best(client, name, params.promote.metric)
    )
    number = int(candidate.version)
    current = _state(client, name, alias)
    wanted = expect or None
    if expect is not None and current.holder != wanted:
        held = history.describe(current.holder)
        raise UserError(f"{name}@{alias} is {held}, not {history.describe(wanted)}: {_who_moved(current)}")
    if number == current.now == current.expected:
        say(f"promote: {name}@{alias} is version {number} already; nothing to do")
        return
    decision = promotion.judge(client, candidate, alias, current.rival, params, test)
    _show(name, number, current, decision)
    if decision.objections and override is None:
        raise UserError(f"{name} version {number} is not promoted to {alias}: {'; '.join(decision.objections)}")
    if dry_run:
        held = history.describe(current.holder)
        say(f"promote: dry run, nothing was changed; {name}@{alias} would move from {held} to {number}")
        return
    _carry_out(client, name, number, current, decision, reason, override if decision.objections else None)


def _carry_out(
    client: Any, name: str, number: int, current: history.State, decision: Decision, reason: str, override: str | None
) -> None:
    alias = current.alias
    if current.interrupted and number == current.expected:
        history.follow(client, name, alias)
        say(f"promote: move {current.entries[-1].number} to version {number} had been interrupted; it is complete now")
        return
    verdict, comparison = decision.verdict, decision.comparison
    move = promotion.record(alias, current, number, reason, verdict=verdict, comparison=comparison, override=override)
    entry = history.append(client, name, move)
    history.follow(client, name, alias)
    held = history.describe(current.holder)
    say(f"promote: {name}@{alias} moved from {held} to version {number} (move {entry.number}): {reason}")
    if override:
        say(f"promote: OVERRIDDEN, recorded for ever: {override}")


def rollback(reason: str, name: str | None = None, alias: str | None = None, dry_run: bool = False) -> None:
    """Takes back the last move of `alias` that was not taken back yet.

    Raises:
        UserError: there is none, or the version to return to is gone or was altered, or it failed its gates and was never put
            here by an override.
    """
    params = load_params()
    name, alias = name or params.register_.name, alias or params.promote.alias
    _require_text("--reason", reason)
    client = store.connect()
    current = _state(client, name, alias)
    if not current.live:
        raise UserError(f"{name}@{alias} has no move to take back")
    undone = current.live[-1]
    target = current.before(undone)
    verdict = model_versions.intact(model_versions.get(client, name, target))[0] if target is not None else None
    if verdict and not verdict.passed and not current.overridden(verdict.version):
        raise UserError(
            f"{name}@{alias} does not return to version {target}: its verdict failed, and nobody put it there against that; "
            "promote another version"
        )
    if dry_run:
        say(f"rollback: dry run, nothing was changed; {name}@{alias} would return to {history.describe(target)}")
        return
    move = promotion.record(alias, current, target, reason, verdict=verdict, undoes=undone.number)
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
    if doubt := current.doubt(name):
        say(f"promote: {doubt}")
    there = {int(v.version) for v in model_versions.versions(client, name)}
    for entry in current.entries:
        if entry.move.target is not None and entry.move.target not in there:
            say(f"promote: version {entry.move.target} of move {entry.number} was deleted from the registry")
    say(f"{name}@{alias} is {history.describe(current.now)}")


def _state(client: Any, name: str, alias: str) -> history.State:
    """Where an alias stands; says so if that is not where its history leads."""
    current = history.state(client, name, alias)
    if doubt := current.doubt(name):
        say(f"promote: {doubt}")
    return current


def _who_moved(current: history.State) -> str:
    if current.holder != current.expected:
        return "it was moved by hand"
    if not current.entries:
        return "nobody has moved it yet"
    last = current.entries[-1].move
    return f"{last.who} moved it at {last.when} ({last.reason})"


def _show(name: str, number: int, current: history.State, decision: Decision) -> None:
    verdict, found = decision.verdict, decision.comparison
    rows = [["top-1", f"{verdict.metrics['top1']:.2%}", f"{found.champion_top1:.2%}" if found else "-"]]
    rows += [[g.gate, f"{g.value:.4f} ({'passed' if g.passed else 'failed'}, {g.threshold:g})", "-"] for g in verdict.gates]
    if found:
        rows += [
            ["right where the other is wrong", str(found.gained), str(found.lost)],
            ["difference, 95 % interval", f"{100 * found.low:+.2f} to {100 * found.high:+.2f} points", ""],
            ["McNemar's exact p", f"{found.p_value:.3g}", ""],
        ]
    if found and found.rejudged:
        rows.append(["test split", verdict.test_sha256[:12], "judged on it for this comparison"])
    place = f"{current.alias} now" if current.rival == current.now else "by the history"
    table(f"{name} version {number} for {current.alias}", ["", f"version {number}",
          f"{place} ({history.describe(current.rival)})"], rows)  # fmt: skip


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
    parser.add_argument("--expect-current", type=int, metavar="N", help="only if the alias is version N now (0: none)")
    parser.add_argument("--override", metavar="WHY", help="promote against the verdict or the comparison; recorded for ever")
    parser.add_argument("--test", type=Path, default=TEST, help=f"folder of the candidate's test split (default: {TEST})")
    parser.add_argument("--dry-run", action="store_true", help="show the decision and change nothing")
    args = parser.parse_args(argv)
    if args.history:
        show_history(args.name, args.alias)
    elif args.rollback:
        rollback(args.reason, args.name, args.alias, args.dry_run)
    else:
        promote(args.version, args.reason, args.name, args.alias, args.expect_current, args.override, args.dry_run, args.test)


if __name__ == "__main__":
    launch(main)
