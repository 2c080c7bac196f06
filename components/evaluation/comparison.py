"""Two models on the same examples: is one worse than the other by more than is tolerated?"""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

from components.errors import UserError
from components.evaluation.predictions import correct
from components.records.evaluation import Comparison, ModelVerdict

RESAMPLES = 20_000
_LEVEL = 0.95


def compare(candidate: np.ndarray, champion: np.ndarray, max_regression: float, seed: int = 0) -> Comparison:
    """Compares which examples each model got right, `bool (N,)` each, example by example.

    `low` and `high` bound the difference in top-1 (candidate less champion): a paired percentile bootstrap over examples
    (Efron and Tibshirani 1993, chapter 13) at 95 %. Only the numbers of examples that one of the two gets right enter the
    difference, so that drawing those numbers from their multinomial is drawing the examples. `p_value` is McNemar's exact
    two-sided test (Psychometrika 12, 1947).

    The candidate passes if even `low` is not below `-max_regression`: it carries the burden of proof, and a test split too
    small to tell the two apart proves nothing.
    """
    assert candidate.shape == champion.shape
    n = len(candidate)
    gained, lost = int((candidate & ~champion).sum()), int((champion & ~candidate).sum())
    drawn = np.random.default_rng(seed).multinomial(n, [gained / n, lost / n, (n - gained - lost) / n], RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Comparison(
        images=n,
        candidate_top1=float(candidate.mean()),
        champion_top1=float(champion.mean()),
        gained=gained,
        lost=lost,
        low=float(low),
        high=float(high),
        p_value=float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        max_regression=max_regression,
        passed=bool(low >= -max_regression),
    )


def compare_evidence(
    candidate: tuple[ModelVerdict, bytes], champion: tuple[ModelVerdict, bytes], max_regression: float, seed: int
) -> Comparison:
    """`compare` on the stored predictions of two judged versions.

    Raises:
        UserError: they were judged on different splits (names both digests), or on different examples.
    """
    (mine, my_predictions), (theirs, their_predictions) = candidate, champion
    if mine.test_sha256 != theirs.test_sha256:
        raise UserError(
            f"version {mine.version} was judged on the test split {mine.test_sha256}, version {theirs.version} on "
            f"{theirs.test_sha256}"
        )
    (ids, right), (other_ids, other_right) = correct(my_predictions), correct(their_predictions)
    if ids != other_ids:
        raise UserError(
            f"the predictions of versions {mine.version} and {theirs.version} are of {len(ids)} and {len(other_ids)} examples, "
            f"and not of the same, though both verdicts name the test split {mine.test_sha256}; evaluate again"
        )
    return compare(right, other_right, max_regression, seed)
