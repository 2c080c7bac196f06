"""The table of a promotion decision, and the record of a move."""

from __future__ import annotations

import hashlib

from components.records.evaluation import Comparison, GateResult, ModelVerdict
from components.registry.alias_state import AliasState
from components.registry.evidence import Evidence
from components.registry.promotion import PromotionDecision, build_move

VERDICT = ModelVerdict(
    name="task",
    version=2,
    sha256="a",
    files_sha256="b",
    test_sha256="t" * 64,
    predictions_sha256="p",
    passed=False,
    metrics={"top1": 0.9},
    gates=[GateResult(gate="min_top1", threshold=0.95, value=0.9, passed=False)],
)
EVIDENCE = Evidence(VERDICT, b"", VERDICT.metrics, VERDICT.gates, recomputed=True, reproduced=True)
COMPARISON = Comparison(
    images=100,
    candidate_top1=0.9,
    champion_top1=0.85,
    gained=7,
    lost=2,
    low=0.01,
    high=0.09,
    p_value=0.18,
    max_regression=0.005,
    passed=True,
)


def test_table_without_baseline_shows_metrics_and_gates() -> None:
    assert PromotionDecision(EVIDENCE, None, []).table_rows() == [
        ["top-1", "90.00%", "-"],
        ["min_top1", "0.9000 (failed, 0.95)", "-"],
        ["predictions", "computed here from the weights", ""],
    ]


def test_table_shows_the_comparison_and_a_second_evaluation() -> None:
    comparison = COMPARISON.model_copy(update={"rejudged": True})
    assert PromotionDecision(EVIDENCE, comparison, []).table_rows() == [
        ["top-1", "90.00%", "85.00%"],
        ["min_top1", "0.9000 (failed, 0.95)", "-"],
        ["right where the other is wrong", "7", "2"],
        ["difference, 95 % interval", "+1.00 to +9.00 points", ""],
        ["McNemar's exact p", "0.18", ""],
        ["margin that 100 images resolve (power 80 %)", "10.10 points (max_regression 0.101)", ""],
        ["images for a margin of 0.50 points", "28,489", ""],
        ["test split", "t" * 12, "judged on it for this comparison"],
        ["predictions", "computed here from the weights", ""],
    ]


def test_move_begins_at_the_effective_version_and_names_the_last_move() -> None:
    state = AliasState("champion", 1, 1, [], 7, frozenset({1, 2}))
    move = build_move(state, 2, "better", verdict=VERDICT, comparison=COMPARISON, override="needed")
    assert (move.alias, move.source, move.target, move.after) == ("champion", 1, 2, 7)
    assert (move.reason, move.override, move.undoes) == ("better", "needed", None)
    assert move.verdict_sha256 == hashlib.sha256(VERDICT.model_dump_json().encode()).hexdigest()
    assert move.comparison == COMPARISON
    assert "@" in move.who


def test_moves_have_different_nonces() -> None:
    state = AliasState("champion", 1, 1, [], 0, frozenset({1}))
    first = build_move(state, None, "back", verdict=None)
    second = build_move(state, None, "back", verdict=None)
    assert first.verdict_sha256 is None
    assert first.nonce != second.nonce
