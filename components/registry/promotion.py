"""May a version stand behind an alias? Its verdict, its bytes, and a comparison with whoever stands there now."""

from __future__ import annotations

import getpass
import hashlib
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.console import Meter
from components.data.format.shards import MANIFEST, read_manifest, read_split
from components.errors import UserError
from components.evaluation.comparison import compare_evidence
from components.evaluation.metrics import probabilities
from components.evaluation.predict import predict_all, require_fit
from components.evaluation.predictions import encode
from components.params import Params, Promote
from components.provenance import git_state
from components.records.evaluation import Comparison, ModelVerdict
from components.records.registry import Move
from components.registry import history, model_versions

# Whatever `promote.alias` is set to: nothing worse gets here without its being said.
_CHAMPION = Promote().alias


@dataclass(frozen=True)
class Decision:
    """What a promotion was judged on. `objections` is empty if nothing speaks against it."""

    verdict: ModelVerdict
    comparison: Comparison | None
    objections: list[str]


def judge(client: Any, candidate: Any, alias: str, rival: int | None, params: Params, test: Path) -> Decision:
    """What speaks against a candidate. Raises `UserError` for what no override covers: no verdict, or other bytes."""
    verdict, _ = model_versions.intact(candidate)
    objections = [
        f"its verdict failed: {g.gate} is {g.threshold:g}, found {g.value:.4f}" for g in verdict.gates if not g.passed
    ]
    status = candidate.tags.get(model_versions.STATUS)
    if status != "passed" and not objections:
        objections.append(f"{model_versions.STATUS} is {status}")
    if rival is None or rival == int(candidate.version):
        return Decision(verdict, None, objections)
    found: Comparison | None = None
    reason = ""
    try:
        found = against(client, candidate.name, rival, (verdict, model_versions.predictions_of(candidate)), params, test)
    except UserError as error:
        reason = f"it cannot be compared with version {rival}: {error}"
    if found and not found.passed:
        reason = (
            f"it may be worse than version {rival} by {-100 * found.low:.2f} points of top-1 "
            f"(95 % interval {100 * found.low:+.2f} to {100 * found.high:+.2f}); "
            f"promote.max_regression allows {100 * found.max_regression:.2f}"
        )
    if reason and alias in (_CHAMPION, params.promote.alias):
        objections.append(reason)
    return Decision(verdict, found, objections)


def against(client: Any, name: str, rival: int, evidence: tuple[ModelVerdict, bytes], params: Params, test: Path) -> Comparison:
    """A judged version's evidence (its verdict and predictions) against that of another. If that was judged on another split,
    it is judged on the first one's, which must be in the folder `test`, for this comparison alone.

    Raises:
        UserError: they cannot be compared: the other was never judged, its evidence is gone or its bytes were altered, or it
            was judged on a split that is not in `test` or that it was not made for.
    """
    other, mine = model_versions.get(client, name, rival), evidence[0]
    judged, max_regression = model_versions.verdict_of(other), params.promote.max_regression
    if judged.test_sha256 == mine.test_sha256:
        return compare_evidence(evidence, (judged, model_versions.predictions_of(other)), max_regression, params.seed)
    found = read_manifest(test).sha256 if (test / MANIFEST).exists() else "nothing"
    if found != mine.test_sha256:
        raise UserError(
            f"version {mine.version} was judged on the test split {mine.test_sha256}, version {rival} on {judged.test_sha256}; "
            f"to judge version {rival} on the first, have that in {test} (`dvc checkout` or `dvc repro` at its commit), where "
            f"now is {found}"
        )
    theirs = judged.model_copy(update={"test_sha256": found}), _predictions(other, test, params)
    return compare_evidence(evidence, theirs, max_regression, params.seed).model_copy(update={"rejudged": True})


def _predictions(version: Any, test: Path, params: Params) -> bytes:
    """What a version predicts for the split in `test`, after comparing its files with those that were judged."""
    _, loaded = model_versions.intact(version)
    images, manifest = read_split(test)
    require_fit(f"{version.name} version {version.version}", loaded.network, manifest)
    with Meter(f"version {version.version} on the candidate's test split") as meter:
        logits, _ = predict_all(loaded.module, images.pixels, params.evaluate.batch_size, meter.count)
    return encode(images.ids, images.labels, probabilities(logits))


def best(client: Any, name: str, metric: str) -> Any:
    """The version that passed and has the best value of a metric. Raises `UserError` if there is none, or no such metric."""
    passed = [v for v in model_versions.versions(client, name) if v.tags.get(model_versions.STATUS) == "passed"]
    if not passed:
        raise UserError(f"{name} has no version that passed; `dvc repro` evaluates what it registers")
    figures = {v.version: model_versions.verdict_of(v).metrics for v in passed}
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
