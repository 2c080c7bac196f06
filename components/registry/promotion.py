"""The decision to promote a version: its verdict, its files, a comparison with the present one."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from components.errors import UserError
from components.evaluation.comparison import (
    compare_evidence,
    describe_lack_of_images,
    resolution_rows,
)
from components.params import Params, Promote
from components.provenance import git_state
from components.records.evaluation import Comparison, ModelVerdict
from components.records.moves import Move
from components.registry import model_versions, verdicts
from components.registry.alias_state import AliasState
from components.registry.evidence import Evidence, collect, predict, read_split_digest
from components.registry.model_versions import STATUS_TAG
from components.tracking.address import get_account

# A worse version needs an override for this alias, whatever `promote.alias` is set to.
_CHAMPION = Promote().alias
_LOWER_IS_BETTER = ("nll", "ece")


@dataclass(frozen=True)
class PromotionDecision:
    """The evidence on a candidate. It may be promoted if `objections` is empty."""

    evidence: Evidence
    comparison: Comparison | None
    objections: list[str]

    def table_rows(self) -> list[list[str]]:
        """Return rows of a name, the candidate's value and the baseline's value, for display."""
        verdict = self.evidence.verdict
        comparison = self.comparison
        baseline_top1 = f"{comparison.champion_top1:.2%}" if comparison else "-"
        rows = [["top-1", f"{self.evidence.metrics['top1']:.2%}", baseline_top1]]
        for g in self.evidence.gates:
            status = "passed" if g.passed else "failed"
            rows.append([g.gate, f"{g.value:.4f} ({status}, {g.threshold:g})", "-"])
        if comparison:
            interval = f"{100 * comparison.low:+.2f} to {100 * comparison.high:+.2f} points"
            rows += [
                ["right where the other is wrong", str(comparison.gained), str(comparison.lost)],
                ["difference, 95 % interval", interval, ""],
                ["McNemar's exact p", f"{comparison.p_value:.3g}", ""],
                *resolution_rows(comparison),
            ]
        if comparison and comparison.rejudged:
            split = verdict.test_sha256[:12]
            rows.append(["test split", split, "judged on it for this comparison"])
        rows.append(["predictions", self.evidence.describe_origin(), ""])
        return rows


def check_candidate(
    client: MlflowClient,
    candidate: ModelVersion,
    alias: str,
    baseline_version: int | None,
    params: Params,
    test: Path,
) -> PromotionDecision:
    """Collect the objections to promoting a version.

    Args:
        client: Client of the store.
        candidate: The version.
        alias: The alias to move to the version. A comparison that does not pass is an objection
            only for `champion` and `promote.alias`.
        baseline_version: The version to compare it with, None for no comparison.
        params: The parameters.
        test: Folder of the test split on which the candidate was evaluated.

    Raises:
        UserError: The candidate was never evaluated, was altered since, or its predictions or
            metrics are not those of its weights. No override covers this.
    """
    evidence = collect(client, candidate, params, test)
    objections = _find_objections(candidate, evidence)
    if baseline_version is None or baseline_version == int(candidate.version):
        return PromotionDecision(evidence, None, objections)
    comparison: Comparison | None = None
    reason = ""
    try:
        comparison = compare_with_version(
            client,
            candidate.name,
            baseline_version,
            evidence.predicted,
            params,
            test,
            recompute=evidence.recomputed,
        )
    except UserError as error:
        reason = f"it cannot be compared with version {baseline_version}: {error}"
    if comparison and not comparison.passed:
        reason = _describe_regression(comparison, baseline_version)
    if reason and alias in (_CHAMPION, params.promote.alias):
        objections.append(reason)
    return PromotionDecision(evidence, comparison, objections)


def _describe_regression(comparison: Comparison, baseline_version: int) -> str:
    reason = (
        f"it may be worse than version {baseline_version} by {-100 * comparison.low:.2f} "
        f"points of top-1 (95 % interval {100 * comparison.low:+.2f} to "
        f"{100 * comparison.high:+.2f}); promote.max_regression allows "
        f"{100 * comparison.max_regression:.2f}"
    )
    lack = describe_lack_of_images(comparison)
    return f"{reason}; {lack}" if lack else reason


def _find_objections(candidate: ModelVersion, evidence: Evidence) -> list[str]:
    objections = [
        f"its verdict failed: {g.gate} is {g.threshold:g}, found {g.value:.4f}"
        for g in evidence.gates
        if not g.passed
    ]
    status = candidate.tags.get(STATUS_TAG)
    if status != "passed" and not objections:
        objections.append(f"{STATUS_TAG} is {status}")
    return objections


def compare_with_version(
    client: MlflowClient,
    name: str,
    baseline_version: int,
    predicted: tuple[ModelVerdict, bytes],
    params: Params,
    test: Path,
    *,
    recompute: bool = False,
) -> Comparison:
    """Compare the predictions of a version with those of another version, example by example.

    If the other version was evaluated on a different test split, it is evaluated again on the
    split in `test`, for this comparison only. That must be the split of the first version.

    Args:
        client: Client of the store.
        name: The registered model.
        baseline_version: Number of the other version.
        predicted: Verdict and predictions of the first version.
        params: The parameters.
        test: Folder of a test split.
        recompute: Evaluate the other version again even if it was evaluated on the same split. If
            its weights are no longer what was judged, the predictions of its verdict are used.

    Raises:
        UserError: The versions cannot be compared. The other version was never evaluated, its
            predictions are gone, it was altered, its test split differs and the right one is not
            in `test`, or it does not fit that split.
    """
    verdict = predicted[0]
    baseline = model_versions.get(client, name, baseline_version)
    baseline_verdict = verdicts.get_verdict(baseline)
    same_split = baseline_verdict.test_sha256 == verdict.test_sha256
    split = read_split_digest(test)
    if not same_split and split != verdict.test_sha256:
        raise UserError(
            f"version {verdict.version} was judged on the test split {verdict.test_sha256}, "
            f"version {baseline_version} on {baseline_verdict.test_sha256}; to judge version "
            f"{baseline_version} on the first, have that in {test} (`dvc checkout` or `dvc repro` "
            f"at its commit), where now is {split or 'nothing'}"
        )
    predictions = None
    if recompute or not same_split:
        try:
            _, loaded = verdicts.load_verified(client, baseline)
            predictions = predict(loaded, f"{name} version {baseline_version}", test, params)
        except UserError:
            if not same_split:
                raise
    baseline_predicted = (
        baseline_verdict.model_copy(update={"test_sha256": verdict.test_sha256}),
        predictions or verdicts.download_predictions(client, baseline),
    )
    comparison = compare_evidence(predicted, baseline_predicted, params.promote.max_regression)
    return comparison.model_copy(update={"rejudged": not same_split})


def select_best(client: MlflowClient, name: str, metric: str) -> ModelVersion:
    """Return the version with the best value of a metric among those that passed their gates.

    Of several equally good versions, the oldest is returned.

    Raises:
        UserError: No version passed, or one of them has no such metric.
    """
    passed = [
        version
        for version in model_versions.list_versions(client, name)
        if version.tags.get(STATUS_TAG) == "passed"
    ]
    if not passed:
        raise UserError(
            f"{name} has no version that passed; `dvc repro` evaluates what it registers"
        )
    metrics = {v.version: verdicts.get_verdict(v).metrics for v in passed}
    for number, values in metrics.items():
        if metric not in values:
            raise UserError(
                f"promote.metric is {metric}, which version {number} was not judged by; known: "
                f"{', '.join(values)}"
            )
    sign = -1 if metric in _LOWER_IS_BETTER else 1
    return max(passed, key=lambda v: (sign * metrics[v.version][metric], -int(v.version)))


def require_judged_version(client: MlflowClient, name: str, move: Move) -> None:
    """Check that the target of an interrupted move is still the version that it was decided for.

    A registered model that was renamed or deleted leaves its history to the next one of its name,
    whose versions have the same numbers.

    Raises:
        UserError: The version is gone, was altered, or has another verdict.
    """
    if move.target is None:
        return
    verdict, _ = verdicts.load_verified(client, model_versions.get(client, name, move.target))
    if _digest_verdict(verdict) != move.verdict_sha256:
        raise UserError(
            f"the interrupted move of {name}@{move.alias} was decided for another verdict than "
            f"version {move.target} has now; it is not completed. Promote a version anew, under "
            "another register.name if this model was registered again"
        )


def _digest_verdict(verdict: ModelVerdict) -> str:
    return hashlib.sha256(verdict.model_dump_json().encode()).hexdigest()


def build_move(
    state: AliasState,
    target: int | None,
    reason: str,
    *,
    verdict: ModelVerdict | None,
    comparison: Comparison | None = None,
    override: str | None = None,
    undoes: int | None = None,
) -> Move:
    """Return the record of a move of an alias to `target`, made now by the user of this process."""
    return Move(
        alias=state.alias,
        source=state.effective_version,
        target=target,
        after=state.last_number,
        undoes=undoes,
        who=_describe_user(),
        account=get_account(),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        override=override,
        verdict_sha256=_digest_verdict(verdict) if verdict else None,
        git_commit=git_state()["git.commit"],
        comparison=comparison,
        nonce=uuid.uuid4().hex,
    )


def _describe_user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without an entry in /etc/passwd
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}".encode(errors="replace").decode()
