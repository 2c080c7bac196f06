"""The paired comparison behind a promotion."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from components.errors import UserError
from components.evaluation.comparison import compare, compare_evidence
from components.evaluation.predictions import correct, encode
from components.records.evaluation import ModelVerdict


def rights(n: int, gained: int, lost: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    candidate, champion = np.zeros(n, bool), np.zeros(n, bool)
    candidate[: both + gained] = True
    champion[:both] = True
    champion[both + gained : both + gained + lost] = True
    return candidate, champion


def test_the_same_predictions_differ_by_nothing() -> None:
    right = np.arange(100) % 3 > 0
    found = compare(right, right, max_regression=0)
    assert (found.low, found.high, found.p_value, found.passed) == (0, 0, 1, True)


def test_the_bootstrap_is_that_of_resampled_examples() -> None:
    candidate, champion = rights(400, gained=30, lost=18, both=300)
    found = compare(candidate, champion, 0.01)
    random = np.random.default_rng(1)
    draws = random.integers(0, 400, (20_000, 400))
    slow = candidate[draws].mean(1) - champion[draws].mean(1)
    assert (found.gained, found.lost) == (30, 18)
    assert [found.low, found.high] == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.003)


def test_mcnemar_is_exact() -> None:
    candidate, champion = rights(50, gained=9, lost=2, both=30)
    assert compare(candidate, champion, 0).p_value == pytest.approx(2 * binom.sf(8, 11, 0.5))


@pytest.mark.parametrize(
    ("gained", "lost", "passed"), [(60, 60, True), (100, 40, True), (40, 100, False), (0, 200, False), (55, 65, False)]
)
def test_a_candidate_passes_only_if_a_regression_beyond_the_margin_is_ruled_out(gained: int, lost: int, passed: bool) -> None:
    candidate, champion = rights(10_000, gained, lost, both=9000)
    assert compare(candidate, champion, 0.0025).passed == passed


def test_a_small_test_split_proves_little() -> None:
    assert not compare(*rights(100, gained=3, lost=3, both=90), 0.01).passed
    assert compare(*rights(100, gained=3, lost=3, both=90), 0.1).passed


def verdict(version: int, split: str) -> ModelVerdict:
    return ModelVerdict(name="n", version=version, sha256="a", files_sha256="a", test_sha256=split, predictions_sha256="a",
                        passed=True, metrics={}, gates=[])  # fmt: skip


def test_evidence_is_read_back_and_compared_only_on_the_same_split() -> None:
    labels = np.arange(60) % 3
    good = np.eye(3)[labels]
    bad = np.eye(3)[np.where(np.arange(60) < 20, (labels + 1) % 3, labels)]
    ids = [str(n) for n in range(60)]
    assert encode(ids, labels, good) == encode(ids, labels, good)
    assert correct(encode(ids, labels, bad))[1].sum() == 40
    evidence = (verdict(1, "split"), encode(ids, labels, bad)), (verdict(2, "split"), encode(ids, labels, good))
    found = compare_evidence(*evidence, 0.01, 0)
    assert (found.lost, found.gained, found.passed) == (20, 0, False)
    with pytest.raises(UserError, match="version 1 was judged on the test split split, version 2 on other"):
        compare_evidence(evidence[0], (verdict(2, "other"), evidence[1][1]), 0.01, 0)
