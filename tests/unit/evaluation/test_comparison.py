"""The paired comparison behind a promotion."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from components.errors import UserError
from components.evaluation.comparison import (
    compare,
    compare_evidence,
    describe_lack_of_images,
    discordant_share,
    images_needed,
    lower_bound,
    resolution_rows,
    resolvable_margin,
)
from components.evaluation.predictions import decode_predictions, encode_predictions
from components.paths import ROOT
from components.records.evaluation import Comparison, ModelVerdict


def make_masks(n: int, gained: int, lost: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which of `n` examples candidate and champion classify correctly."""
    candidate = np.zeros(n, bool)
    champion = np.zeros(n, bool)
    candidate[: both + gained] = True
    champion[:both] = True
    champion[both + gained : both + gained + lost] = True
    return candidate, champion


def enumerate_outcomes(
    images: int, discordance: float, difference: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all numbers of gained and lost images that may occur, and their probabilities.

    Outcomes with a probability below 1e-6 in all are left out.

    Args:
        images: number of images of the test split.
        discordance: true probability that exactly one of the two models is right.
        difference: true difference in top-1.
    """
    gain, loss = (discordance + difference) / 2, (discordance - difference) / 2
    gained, lost = np.meshgrid(
        *(
            np.arange(binom.ppf(1e-7, images, share), binom.isf(1e-7, images, share) + 1)
            for share in (gain, loss)
        )
    )
    possible = gained + lost <= images
    gained, lost = gained[possible], lost[possible]
    probability = binom.pmf(lost, images, loss)
    probability *= binom.pmf(gained, images - lost, gain / (1 - loss))
    return gained, lost, probability


@pytest.mark.parametrize("images", [20, 50, 100, 200, 500, 1000, 3000, 10_000])
@pytest.mark.parametrize("discordance", [0.01, 0.02, 0.05, 0.1, 0.2])
def test_interval_and_its_low_end_hold_their_error(images: int, discordance: float) -> None:
    """Exact, for true differences from none to all discordant images lost.

    The high end is the low end of exchanged models, so better candidates need no rows of their own.
    """
    for difference in {0.0, -min(0.005, discordance), -discordance / 2, -discordance}:
        gained, lost, probability = enumerate_outcomes(images, discordance, difference)
        too_high = lower_bound(images, gained, lost) > difference
        too_low = -lower_bound(images, lost, gained) < difference
        assert probability.sum() == pytest.approx(1, abs=2e-6)
        assert probability[too_high].sum() <= 0.025, f"low end, difference {difference}"
        assert probability[too_high | too_low].sum() <= 0.05, f"interval, difference {difference}"


@pytest.mark.parametrize("images", [20, 100])
def test_model_two_points_worse_is_refused_on_a_small_split(images: int) -> None:
    """A percentile bootstrap accepts this model if no image is lost: in 67 and 13 % of trials."""
    accepted = sum(
        binom.pmf(lost, images, 0.02)
        for lost in range(images + 1)
        if compare(*make_masks(images, 0, lost, both=images - lost), 0.005).passed
    )
    assert accepted <= 0.025


@pytest.mark.parametrize("images", [1, 20, 100, 900])
def test_equal_predictions_on_a_small_split_do_not_pass(images: int) -> None:
    correct = np.arange(images) % 3 > 0
    comparison = compare(correct, correct, max_regression=0.005)
    assert comparison.low == -comparison.high < -0.005
    assert comparison.p_value == 1
    assert not comparison.passed


def test_equal_predictions_pass_if_enough_images_agree() -> None:
    correct = np.arange(1000) % 3 > 0
    assert compare(correct, correct, max_regression=0.005).passed
    assert not compare(correct, correct, max_regression=0).passed


@pytest.mark.parametrize(
    ("images", "gained", "lost", "interval"),
    [(21, 1, 7, (-0.517, -0.026)), (86, 16, 8, (-0.020, 0.207))],
)
def test_interval_without_correction_is_the_published_one(
    images: int, gained: int, lost: int, interval: tuple[float, float]
) -> None:
    """Fagerland et al., Stat. Med. 33 (2014), 2850-2875; Agresti and Min, Stat. Med. 24 (2005)."""
    low = lower_bound(images, gained, lost, correction=0)
    high = -lower_bound(images, lost, gained, correction=0)
    assert (low, high) == pytest.approx(interval, abs=0.0005)


@pytest.mark.parametrize(("images", "lost"), [(1, 0), (20, 0), (20, 3), (1000, 17), (50, 49)])
def test_low_end_without_gains_is_that_of_one_proportion(images: int, lost: int) -> None:
    wilson = binomtest(lost, images).proportion_ci(method="wilsoncc")
    assert lower_bound(images, 0, lost) == pytest.approx(-wilson.high, abs=1e-9)


def test_low_end_lies_between_minus_one_and_the_observed_difference() -> None:
    gained, lost = (counts.ravel() for counts in np.mgrid[:31, :31])
    possible = gained + lost <= 30
    gained, lost = gained[possible], lost[possible]
    low = lower_bound(30, gained, lost)
    assert (low >= -1).all()
    assert (low < (gained - lost) / 30)[lost < 30].all()
    assert (low <= -lower_bound(30, lost, gained)).all()


@pytest.mark.parametrize(
    ("images", "discordance", "lowest", "highest"),
    [(20, 0.02, 0.7, 0.95), (100, 0.05, 0.78, 0.83)]
    + [(n, d, 0.79, 0.81) for n in (1000, 3000) for d in (0.02, 0.1)],
)
def test_equally_good_model_passes_with_the_resolvable_margin_in_four_of_five_trials(
    images: int, discordance: float, lowest: float, highest: float
) -> None:
    margin = resolvable_margin(images, discordance)
    gained, lost, probability = enumerate_outcomes(images, discordance, 0)
    passed = lower_bound(images, gained, lost) >= -margin
    assert lowest < probability[passed].sum() < highest


@pytest.mark.parametrize("margin", [0.001, 0.005, 0.05, 1])
def test_number_of_images_needed_is_the_smallest_that_resolves_the_margin(margin: float) -> None:
    needed = images_needed(0.06, margin)
    assert needed is not None
    assert resolvable_margin(needed, 0.06) <= margin
    assert needed == 1 or resolvable_margin(needed - 1, 0.06) > margin


@pytest.mark.parametrize("margin", [0, 1e-15])
def test_no_number_of_images_resolves_a_margin_of_nothing(margin: float) -> None:
    assert images_needed(0.06, margin) is None


def test_split_without_discordant_images_counts_as_one() -> None:
    correct = np.ones(200, bool)
    assert discordant_share(compare(correct, correct, 0.005)) == 1 / 200


def test_refusal_for_lack_of_images_names_the_margin_and_the_images() -> None:
    equal = compare(*make_masks(1000, gained=30, lost=30, both=900), 0.005)
    assert describe_lack_of_images(equal) == (
        "this split of 1,000 images can resolve 2.29 points; 19,092 images are needed for "
        "promote.max_regression 0.005"
    )
    assert resolution_rows(equal) == [
        [
            "margin that 1,000 images resolve (power 80 %)",
            "2.29 points (max_regression 0.0229)",
            "",
        ],
        ["images for a margin of 0.50 points", "19,092", ""],
    ]
    assert compare(*make_masks(1000, gained=30, lost=30, both=900), 0.0229).passed


def test_refusal_of_a_model_that_is_worse_for_certain_asks_for_no_images() -> None:
    worse = compare(*make_masks(1000, gained=10, lost=100, both=800), 0.005)
    assert not worse.passed
    assert describe_lack_of_images(worse) == ""


def test_margin_of_nothing_is_said_to_be_out_of_reach() -> None:
    equal = compare(*make_masks(1000, gained=30, lost=30, both=900), 0)
    assert "no number of images is enough for promote.max_regression 0" in (
        describe_lack_of_images(equal)
    )
    assert resolution_rows(equal)[1][1] == "no number is enough"


def test_tables_of_the_documentation_are_computed() -> None:
    page = (ROOT / "docs" / "explanation" / "promotion.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    shares = [0.02, 0.06, 0.1, 0.2]
    margins = {row[0]: row[1:] for row in rows if row[0] in ("300", "1,000", "10,000", "40,000")}
    for images, cells in margins.items():
        number = int(images.replace(",", ""))
        assert cells == [f"{100 * resolvable_margin(number, d):.2f}" for d in shares]
    needed = {row[0]: row[1:] for row in rows if row[0] in ("0.0025", "0.005", "0.01", "0.02")}
    for margin, cells in needed.items():
        assert cells == [f"{images_needed(d, float(margin)):,}" for d in shares]
    assert (len(margins), len(needed)) == (4, 4)


def test_comparison_in_an_old_move_is_read() -> None:
    """As Kiln 0.1.0 recorded it; the bounds are a percentile bootstrap's."""
    recorded = (
        '{"images":2000,"candidate_top1":0.95,"champion_top1":0.9,"gained":100,"lost":0,'
        '"low":0.0405,"high":0.06,"p_value":1e-30,"max_regression":0.005,"passed":true,'
        '"rejudged":false}'
    )
    assert Comparison.model_validate_json(recorded).model_dump_json() == recorded


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
    decoded = decode_predictions(data)
    assert decoded.ids == IDS
    assert decoded.correct.tolist() == [n >= 20 for n in range(60)]


@pytest.mark.parametrize("probability", [np.zeros((60, 3)), np.full((60, 3), np.nan), -PERFECT])
def test_probabilities_that_are_none_are_refused(probability: np.ndarray) -> None:
    with pytest.raises(UserError, match="do not sum to 1"):
        decode_predictions(encode_predictions(IDS, LABELS, probability))


def test_labels_that_are_no_class_are_refused() -> None:
    with pytest.raises(UserError, match="labels that are no class"):
        decode_predictions(encode_predictions(IDS, LABELS + 1, PERFECT))


def test_file_that_is_none_of_predictions_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be read"):
        decode_predictions(b"none")


def test_evidence_is_compared_example_by_example() -> None:
    comparison = compare_evidence(
        (make_verdict(1, "split"), encode_predictions(IDS, LABELS, TWENTY_WRONG)),
        (make_verdict(2, "split"), encode_predictions(IDS, LABELS, PERFECT)),
        0.01,
    )
    assert (comparison.lost, comparison.gained, comparison.passed) == (20, 0, False)


def test_evidence_on_different_splits_or_examples_is_refused() -> None:
    data = encode_predictions(IDS, LABELS, PERFECT)
    candidate = (make_verdict(1, "split"), data)
    with pytest.raises(
        UserError, match="version 1 was judged on the test split split, version 2 on other"
    ):
        compare_evidence(candidate, (make_verdict(2, "other"), data), 0.01)
    fewer = encode_predictions(IDS[:50], LABELS[:50], PERFECT[:50])
    with pytest.raises(UserError, match="are of 60 and 50 examples, and not of the same"):
        compare_evidence(candidate, (make_verdict(2, "split"), fewer), 0.01)
