"""May a version stand behind an alias? Its verdict, its bytes, and a comparison with whoever stands there now."""

from __future__ import annotations

import getpass
import hashlib
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from components.artifacts import Comparison, ModelVerdict, Move
from components.errors import UserError
from components.evaluation.compare import compare_evidence
from components.params import Params
from components.provenance import git_state
from components.tracking import history, registry


@dataclass(frozen=True)
class Decision:
    """What a promotion was judged on. `objections` is empty if nothing speaks against it."""

    verdict: ModelVerdict
    comparison: Comparison | None
    objections: list[str]


def judge(client: Any, candidate: Any, alias: str, rival: int | None, params: Params) -> Decision:
    """What speaks against a candidate. Raises `UserError` for what no override covers: no verdict, or other bytes."""
    verdict = registry.require_intact(candidate)
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
        found = against(client, candidate.name, rival, (verdict, registry.predictions_of(candidate)), params)
    except UserError as error:
        reason = f"it cannot be compared with version {rival}: {error}"
    if found and not found.passed:
        reason = (
            f"it may be worse than version {rival} by {-100 * found.low:.2f} points of top-1 "
            f"(95 % interval {100 * found.low:+.2f} to {100 * found.high:+.2f}); "
            f"promote.max_regression allows {100 * found.max_regression:.2f}"
        )
    if reason and alias == params.promote.alias:
        objections.append(reason)
    return Decision(verdict, found, objections)


def against(client: Any, name: str, rival: int, evidence: tuple[ModelVerdict, bytes], params: Params) -> Comparison:
    """A judged version's evidence (its verdict and predictions) against that of another.

    Raises:
        UserError: they cannot be compared: the other was never judged, or on another split, or its evidence is gone.
    """
    other = registry.get(client, name, rival)
    theirs = registry.verdict_of(other), registry.predictions_of(other)
    return compare_evidence(evidence, theirs, params.promote.max_regression, params.seed)


def best(client: Any, name: str, metric: str) -> Any:
    """The version that passed and has the best value of a metric. Raises `UserError` if there is none, or no such metric."""
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


def record(
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
    """A move of an alias from where it stands, by whoever calls this, now."""
    digest = hashlib.sha256(verdict.model_dump_json().encode()).hexdigest() if verdict else None
    return Move(
        alias=alias, source=current.holder, target=target, after=current.after, undoes=undoes,
        who=f"{getpass.getuser()}@{socket.gethostname()}", when=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason, override=override, verdict_sha256=digest, git_commit=git_state()["git.commit"],
        comparison=comparison, nonce=history.nonce(),
    )  # fmt: skip
