"""The quarantine: images that are not used, with the reasons."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from components.data.preparation.survey import Survey
from components.data.sources.base import Refusal, name_some
from components.errors import UserError
from components.params import Preprocess

# Reasons in a message. The list of the refused images has all of them.
_MAX_REASONS = 5


class TooManyRefusedError(UserError):
    """More images are refused than `max_quarantined_fraction` allows; `quarantine` lists them."""

    def __init__(self, text: str, quarantine: list[Refusal]) -> None:
        super().__init__(text)
        self.quarantine = quarantine


def write_quarantine(path: Path, quarantine: Sequence[Refusal]) -> None:
    """Write a CSV file with one line per image that is not used.

    Its columns are path, reason, detail and digest (SHA-256 of the file).
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Refusal._fields)
        writer.writerows(quarantine)


def refuse_label_conflicts(survey: Survey, first: np.ndarray, indices: np.ndarray) -> list[Refusal]:
    """Return refusals of images whose exact duplicates carry a different label.

    Args:
        first: Index of the first duplicate of each image.
        indices: The images to refuse.
    """
    labels: dict[int, set[str]] = {}
    for index in indices:
        labels.setdefault(int(first[index]), set()).add(survey.get_entry(index).label)
    refusals = []
    for index in indices:
        detail = f"the same pixels are in {', '.join(sorted(labels[int(first[index])]))}"
        digest = survey.get_content_digest(index)
        refusals.append(Refusal(survey.get_entry(index).id, "two labels", detail, digest))
    return refusals


def refuse_duplicates(survey: Survey, first: np.ndarray, indices: np.ndarray) -> list[Refusal]:
    """Return refusals of exact duplicates. Arguments are those of `refuse_label_conflicts`."""
    refusals = []
    for index in indices.tolist():
        detail = f"of {survey.get_entry(int(first[index])).id}"
        digest = survey.get_content_digest(index)
        refusals.append(Refusal(survey.get_entry(index).id, "duplicate", detail, digest))
    return refusals


def describe_reasons(quarantine: Sequence[Refusal], total: int) -> str:
    """Return the most frequent reasons, each with its number and its share of `total` images."""
    reasons = Counter(refusal.reason for refusal in quarantine).most_common()
    return name_some((f"{n:,} {reason} ({n / total:.2%})" for reason, n in reasons), _MAX_REASONS)


def check_refused_share(quarantine: list[Refusal], total: int, settings: Preprocess) -> None:
    """Raise `TooManyRefusedError` if more than `max_quarantined_fraction` is refused."""
    share = len(quarantine) / total
    if share <= settings.max_quarantined_fraction:
        return
    reasons = Counter(refusal.reason for refusal in quarantine).most_common()
    examples = {refusal.reason: refusal for refusal in reversed(quarantine)}
    lines = []
    for reason, n in reasons[:_MAX_REASONS]:
        example = examples[reason]
        detail = f" ({example.detail})" if example.detail else ""
        lines.append(f"  {n / total:>7.2%} {n:>7,} {reason}: {example.path}{detail}")
    if len(reasons) > _MAX_REASONS:
        others = sum(n for _, n in reasons[_MAX_REASONS:])
        more = len(reasons) - _MAX_REASONS
        lines.append(f"  {others / total:>7.2%} {others:>7,} for {more} more reasons")
    raise TooManyRefusedError(
        f"{len(quarantine):,} of {total:,} images ({share:.2%}) cannot be used; "
        "preprocess.max_quarantined_fraction allows "
        f"{settings.max_quarantined_fraction:.2%}. "
        "Mend them or raise it. By reason, with one of each:\n" + "\n".join(lines),
        quarantine,
    )
