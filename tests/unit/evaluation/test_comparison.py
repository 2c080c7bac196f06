"""The paired comparison behind a promotion."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from components.errors import UserError
from components.evaluation.comparison import compare, compare_evidence
from components.evaluation.predictions import decode_correctness, encode_predictions
from components.records.evaluation import ModelVerdict


def make_masks(n: int, gained: int, lost: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which of `n` examples candidate and champion classify correctly."""
    candidate = np.zeros(n, bool)
    champion = np.zeros(n, bool)
    candidate[: both + gained] = True
    champion[:both] = True
    champion[both + gained : both + gained + lost] = True
    return candidate, champion


def test_equal_predictions_have_no_difference() -> None:
    correct = np.arange(100) % 3 > 0
    comparison = compare(correct, correct, max_regression=0)
    assert (comparison.low, comparison.high, comparison.p_value) == (0, 0, 1)
    assert comparison.passed


def test_interval_equals_a_bootstrap_over_examples() -> None:
    candidate, champion = make_masks(400, gained=30, lost=18, both=300)
    comparison = compare(candidate, champion, 0.01)
    random = np.random.default_rng(1)
    samples = random.integers(0, 400, (20_000, 400))
    differences = candidate[samples].mean(1) - champion[samples].mean(1)
    expected = np.quantile(differences, [0.025, 0.975])
    assert (comparison.gained, comparison.lost) == (30, 18)
    assert [comparison.low, comparison.high] == pytest.approx(expected, abs=0.003)


def test_p_value_is_that_of_the_exact_mcnemar_test() -> None:
    candidate, champion = make_masks(50, gained=9, lost=2, both=30)
    assert compare(candidate, champion, 0).p_value == pytest.approx(2 * binom.sf(8, 11, 0.5))


@pytest.mark.parametrize(
    ("gained", "lost", "passed"),
    [(60, 60, True), (100, 40, True), (40, 100, False), (0, 200, False), (55, 65, False)],
)
def test_candidate_passes_only_if_a_regression_beyond_the_margin_is_ruled_out(
    gained: int, lost: int, passed: bool
) -> None:
    candidate, champion = make_masks(10_000, gained, lost, both=9000)
    assert compare(candidate, champion, 0.0025).passed == passed


def test_small_test_split_needs_a_larger_margin() -> None:
    assert not compare(*make_masks(100, gained=3, lost=3, both=90), 0.01).passed
    assert compare(*make_masks(100, gained=3, lost=3, both=90), 0.1).passed


def make_verdict(version: int, split: str) -> ModelVerdict:
    return ModelVerdict(
        name="n",
        version=version,
        sha256="a",
        files_sha256="a",
        test_sha256=split,
        predictions_sha256="a",
        passed=True,
        metrics={},
        gates=[],
    )


IDS = [str(n) for n in range(60)]
LABELS = np.arange(60) % 3
PERFECT = np.eye(3)[LABELS]
TWENTY_WRONG = np.eye(3)[np.where(np.arange(60) < 20, (LABELS + 1) % 3, LABELS)]


def test_predictions_file_is_reproducible_and_read_back() -> None:
    data = encode_predictions(IDS, LABELS, TWENTY_WRONG)
    assert data == encode_predictions(IDS, LABELS, TWENTY_WRONG)
    ids, correct = decode_correctness(data)
    assert ids == IDS
    assert correct.tolist() == [n >= 20 for n in range(60)]


def test_evidence_is_compared_example_by_example() -> None:
    comparison = compare_evidence(
        (make_verdict(1, "split"), encode_predictions(IDS, LABELS, TWENTY_WRONG)),
        (make_verdict(2, "split"), encode_predictions(IDS, LABELS, PERFECT)),
        0.01,
        0,
    )
    assert (comparison.lost, comparison.gained, comparison.passed) == (20, 0, False)


def test_evidence_on_different_splits_or_examples_is_refused() -> None:
    data = encode_predictions(IDS, LABELS, PERFECT)
    candidate = (make_verdict(1, "split"), data)
    with pytest.raises(
        UserError, match="version 1 was judged on the test split split, version 2 on other"
    ):
        compare_evidence(candidate, (make_verdict(2, "other"), data), 0.01, 0)
    fewer = encode_predictions(IDS[:50], LABELS[:50], PERFECT[:50])
    with pytest.raises(UserError, match="are of 60 and 50 examples, and not of the same"):
        compare_evidence(candidate, (make_verdict(2, "split"), fewer), 0.01, 0)
