"""Images that are not used although they can be decoded: contradictory labels, duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.data.preparation import duplicates
from components.data.preparation.quarantine import (
    check_refused_share,
    refuse_duplicates,
    refuse_label_conflicts,
)
from components.data.preparation.survey import Survey
from components.data.sources.base import NO_SPLIT, Refusal
from components.errors import UserError
from components.params import Preprocess


@dataclass(frozen=True)
class Exclusion:
    """Accepted images of a survey that are used, and the refusals of all others."""

    used: np.ndarray
    """Indices of the images that are used, ascending, `int64 (U,)`."""
    originals: np.ndarray
    """Index for each accepted image of the one to keep of its exact duplicates, `int64 (N,)`."""
    quarantine: list[Refusal]
    """All images of the source that are not used, dropped duplicates included."""
    num_dropped: int
    """Number of dropped duplicates."""


def exclude_images(survey: Survey, labels: np.ndarray, settings: Preprocess) -> Exclusion:
    """Refuse images with contradictory labels, and drop or keep exact duplicates.

    Args:
        labels: A number per label, of each accepted image, `int64 (N,)`.

    Raises:
        TooManyRefusedError: more images than `max_quarantined_fraction` are refused.
        UserError: an image is in several of the source's splits.
    """
    source_splits = survey.source.entries.splits[survey.facts["row"]]
    originals = _find_originals(survey.facts["digest"], source_splits)
    excluded = duplicates.find_label_conflicts(originals, labels)
    conflicts = np.flatnonzero(excluded)
    quarantine = survey.refused + refuse_label_conflicts(survey, originals, conflicts)
    check_refused_share(quarantine, survey.source.num_listed, settings)
    _check_leaks(survey, source_splits, originals, ~excluded)
    num_dropped = 0
    if settings.duplicates == "drop":
        dropped = np.flatnonzero(~excluded & (originals != np.arange(len(originals))))
        quarantine += refuse_duplicates(survey, originals, dropped)
        excluded[dropped] = True
        num_dropped = len(dropped)
    return Exclusion(np.flatnonzero(~excluded), originals, quarantine, num_dropped)


def _find_originals(digests: np.ndarray, source_splits: np.ndarray) -> np.ndarray:
    """Return for each image the index of the one to keep of its exact duplicates.

    It is the first that the source assigns to a split; without one, the first.
    """
    order = np.argsort(source_splits == NO_SPLIT, kind="stable")
    first = np.empty(len(order), np.int64)
    first[order] = order[duplicates.find_first_occurrences(digests[order])]
    return first


def _check_leaks(
    survey: Survey, source_splits: np.ndarray, first: np.ndarray, mask: np.ndarray
) -> None:
    """Raise `UserError` if the source has equal pixels in two splits, among the masked images."""
    assigned = source_splits != NO_SPLIT
    leaks = np.flatnonzero(mask & assigned & (source_splits != source_splits[first]))
    if len(leaks):
        pairs = "; ".join(
            f"{survey.get_entry(index).id} = {survey.get_entry(first[index]).id}"
            for index in leaks[:5]
        )
        raise UserError(
            f"{len(leaks):,} images are in two of the source's splits with the same pixels, "
            f"which would make what is measured too good: {pairs}"
            f"{'; ...' if len(leaks) > 5 else ''}. Take each out of one of them"
        )
