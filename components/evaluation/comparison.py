"""Paired comparison of two models: a test for a regression beyond a tolerance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, norm

from components.errors import UserError
from components.evaluation.predictions import decode_predictions
from components.records.evaluation import Comparison, ModelVerdict

_CONFIDENCE = 0.95
_POWER = 0.8
_Z = float(norm.ppf((1 + _CONFIDENCE) / 2))
_CORRECTION = 0.5  # images
_BISECTIONS = 40
_MAX_IMAGES = 10**12


def compare(candidate: np.ndarray, champion: np.ndarray, max_regression: float) -> Comparison:
    """Compare two models by the examples that each classified correctly.

    `low` and `high` bound the difference in top-1 (candidate minus champion) with a confidence of
    95 % (see `lower_bound`). `p_value` is McNemar's exact two-sided test (Psychometrika 12, 1947).

    The candidate passes if `low` is at least `-max_regression`. This is a non-inferiority test: on
    a test split that is too small to separate the two models, the candidate does not pass. A
    candidate that is worse by `max_regression` or more passes in at most 2.5 % of all test splits.

    Args:
        candidate: mask of the examples that the candidate got right, `bool (N,)`.
        champion: the same for the champion, on the same examples.
        max_regression: largest tolerated loss of top-1, as a share of 1.
    """
    assert candidate.shape == champion.shape
    n = len(candidate)
    gained = int((candidate & ~champion).sum())
    lost = int((champion & ~candidate).sum())
    low = float(lower_bound(n, gained, lost))
    high = -float(lower_bound(n, lost, gained))
    return Comparison(
        images=n,
        candidate_top1=float(candidate.mean()),
        champion_top1=float(champion.mean()),
        gained=gained,
        lost=lost,
        low=low,
        high=high,
        p_value=float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        max_regression=max_regression,
        passed=low >= -max_regression,
    )


def lower_bound(
    images: int, gained: ArrayLike, lost: ArrayLike, correction: float = _CORRECTION
) -> np.ndarray:
    """Return the low end of the 95 % interval of a paired difference in top-1, `float64 (...)`.

    This is the score interval of Tango (Statistics in Medicine 17, 1998, 891-908): the smallest
    difference that a score test at 2.5 % does not reject. The continuity correction of half an
    image is the largest one of Chang et al. (Journal of Applied Statistics 51, 2024, 139-152).
    Without it, the error of this bound reaches 3.0 % and the coverage of the interval falls to
    93.2 % where few images are discordant. The high end is `-lower_bound(images, lost, gained)`.

    Args:
        images: number of images N.
        gained: number of images that only the candidate gets right, `(...)`. It need not be whole.
        lost: number of images that only the champion gets right, `(...)`.
        correction: continuity correction, in images.
    """
    surplus = np.subtract(gained, lost, dtype=np.float64)
    low = np.full_like(surplus, -1.0)
    high = surplus / images
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        deviation = surplus - images * middle - correction
        rejected = deviation > _Z * _restricted_std(images, gained, lost, middle)
        low = np.where(rejected, middle, low)
        high = np.where(rejected, high, middle)
    return low


def _restricted_std(
    images: int, gained: ArrayLike, lost: ArrayLike, difference: np.ndarray
) -> np.ndarray:
    """Return the standard deviation of `gained - lost` if `difference` were the true difference.

    The share of lost images is the maximum-likelihood estimate under this restriction: the larger
    root of a quadratic equation (Tango 1998, section 3).
    """
    gained = np.asarray(gained, np.float64)
    lost = np.asarray(lost, np.float64)
    b = (2 * images - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    lost_share = (np.sqrt(np.maximum(b * b - 8 * images * c, 0)) - b) / (4 * images)
    variance = images * (2 * lost_share + difference * (1 - difference))
    std: np.ndarray = np.sqrt(np.maximum(variance, 0))
    return std


def discordant_share(comparison: Comparison) -> float:
    """Return the share of images that exactly one of the two models gets right.

    At least one image is counted: a split without discordant images does not show that there are
    none.
    """
    return max(comparison.gained + comparison.lost, 1) / comparison.images


def resolvable_margin(images: int, discordance: float) -> float:
    """Return the smallest `max_regression` with which an equally good model passes (power 80 %).

    Of five equally good models, one has bad luck: of the discordant images it loses more than it
    gains, by 0.84 standard deviations or more. The margin is what `lower_bound` does not exclude
    there. Sample sizes for this test use the same normal approximation (Nam, Biometrics 53, 1997,
    1422-1430; Liu et al., Statistics in Medicine 21, 2002, 231-245). The true power is 79.5 to
    80.5 % from 1,000 images on, and 73 to 91 % where fewer than ten images are discordant.

    Args:
        images: number of images of the test split.
        discordance: share of images that exactly one of the two models gets right.
    """
    discordant = images * discordance
    shortfall = min(float(norm.ppf(_POWER)) * math.sqrt(discordant), discordant)
    gained = (discordant - shortfall) / 2
    return -float(lower_bound(images, gained, discordant - gained))


def images_needed(discordance: float, max_regression: float) -> int | None:
    """Return the smallest test split that resolves a margin (see `resolvable_margin`).

    None if there is no such split of up to 10^12 images: `max_regression` is 0, or nearly 0.

    Args:
        discordance: share of images that exactly one of the two models gets right.
        max_regression: the margin, as a share of 1.
    """
    too_few, enough = 0, 1
    while resolvable_margin(enough, discordance) > max_regression:
        too_few, enough = enough, 2 * enough
        if enough > _MAX_IMAGES:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if resolvable_margin(middle, discordance) > max_regression:
            too_few = middle
        else:
            enough = middle
    return enough


def resolution_rows(comparison: Comparison) -> list[list[str]]:
    """Return two table rows of a name, a value and "": the split's margin, the images needed."""
    margin = _split_margin(comparison)
    needed = images_needed(discordant_share(comparison), comparison.max_regression)
    return [
        [
            f"margin that {comparison.images:,} images resolve (power 80 %)",
            f"{100 * margin:.2f} points (max_regression {margin:g})",
            "",
        ],
        [
            f"images for a margin of {100 * comparison.max_regression:.2f} points",
            "no number is enough" if needed is None else f"{needed:,}",
            "",
        ],
    ]


def describe_lack_of_images(comparison: Comparison) -> str:
    """Return a sentence if the split is too small for `max_regression`, otherwise "".

    A candidate that is proven worse (`high` is below `-max_regression`) lacks no images.
    """
    allowed = comparison.max_regression
    margin = _split_margin(comparison)
    if margin <= allowed or comparison.high < -allowed:
        return ""
    needed = images_needed(discordant_share(comparison), allowed)
    demand = "no number of images is enough" if needed is None else f"{needed:,} images are needed"
    return (
        f"this split of {comparison.images:,} images can resolve {100 * margin:.2f} points; "
        f"{demand} for promote.max_regression {allowed:g}"
    )


def _split_margin(comparison: Comparison) -> float:
    """Return the margin that a comparison's split resolves, rounded up to 0.01 points."""
    margin = resolvable_margin(comparison.images, discordant_share(comparison))
    return math.ceil(10_000 * margin) / 10_000


def compare_evidence(
    candidate: tuple[ModelVerdict, bytes],
    champion: tuple[ModelVerdict, bytes],
    max_regression: float,
) -> Comparison:
    """Compare two evaluated versions by their stored predictions (see `compare`).

    Args:
        candidate: verdict and predictions file of the candidate.
        champion: verdict and predictions file of the champion.
        max_regression: largest tolerated loss of top-1, as a share of 1.

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
    ours = decode_predictions(candidate_predictions)
    theirs = decode_predictions(champion_predictions)
    if ours.ids != theirs.ids or not np.array_equal(ours.labels, theirs.labels):
        raise UserError(
            f"the predictions of versions {candidate_verdict.version} and "
            f"{champion_verdict.version} are of {len(ours.ids)} and {len(theirs.ids)} examples, "
            f"and not of the same with the same labels, though both verdicts name the test split "
            f"{split}; evaluate again"
        )
    return compare(ours.correct, theirs.correct, max_regression)
