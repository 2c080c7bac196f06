"""Paired comparison of two models: a test for a regression beyond a tolerance."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

from components.errors import UserError
from components.evaluation.predictions import decode_correctness
from components.records.evaluation import Comparison, ModelVerdict

RESAMPLES = 20_000
_CONFIDENCE = 0.95


def compare(
    candidate: np.ndarray, champion: np.ndarray, max_regression: float, seed: int = 0
) -> Comparison:
    """Compare two models by the examples that each classified correctly.

    `low` and `high` bound the difference in top-1 (candidate minus champion) with a confidence of
    95 %. They come from a paired percentile bootstrap over examples (Efron and Tibshirani 1993,
    chapter 13). Only the numbers of examples that exactly one of the two gets right enter the
    difference. Drawing these numbers from their multinomial distribution is therefore equivalent
    to drawing the examples. `p_value` is McNemar's exact two-sided test (Psychometrika 12, 1947).

    The candidate passes if `low` is at least `-max_regression`. This is a non-inferiority test: on
    a test split that is too small to separate the two models, the candidate does not pass.

    Args:
        candidate: mask of the examples that the candidate got right, `bool (N,)`.
        champion: the same for the champion, on the same examples.
        max_regression: largest tolerated loss of top-1, as a share of 1.
        seed: seed of the bootstrap.
    """
    assert candidate.shape == champion.shape
    n = len(candidate)
    gained = int((candidate & ~champion).sum())
    lost = int((champion & ~candidate).sum())
    resampled = np.random.default_rng(seed).multinomial(
        n, [gained / n, lost / n, (n - gained - lost) / n], RESAMPLES
    )
    differences = (resampled[:, 0] - resampled[:, 1]) / n
    low, high = np.quantile(differences, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
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
    candidate: tuple[ModelVerdict, bytes],
    champion: tuple[ModelVerdict, bytes],
    max_regression: float,
    seed: int,
) -> Comparison:
    """Compare two evaluated versions by their stored predictions (see `compare`).

    Args:
        candidate: verdict and predictions file of the candidate.
        champion: verdict and predictions file of the champion.
        max_regression: largest tolerated loss of top-1, as a share of 1.
        seed: seed of the bootstrap.

    Raises:
        UserError: the versions were evaluated on different splits (the message contains both
            digests) or on different examples.
    """
    candidate_verdict, candidate_predictions = candidate
    champion_verdict, champion_predictions = champion
    split = candidate_verdict.test_sha256
    if split != champion_verdict.test_sha256:
        raise UserError(
            f"version {candidate_verdict.version} was judged on the test split {split}, "
            f"version {champion_verdict.version} on {champion_verdict.test_sha256}"
        )
    candidate_ids, candidate_correct = decode_correctness(candidate_predictions)
    champion_ids, champion_correct = decode_correctness(champion_predictions)
    if candidate_ids != champion_ids:
        raise UserError(
            f"the predictions of versions {candidate_verdict.version} and "
            f"{champion_verdict.version} are of {len(candidate_ids)} and {len(champion_ids)} "
            f"examples, and not of the same, though both verdicts name the test split {split}; "
            "evaluate again"
        )
    return compare(candidate_correct, champion_correct, max_regression, seed)
