"""From what was found to what is used: contradictions out, duplicates dropped or kept, every image in one split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.data.preparation import duplicates, splits
from components.data.preparation.survey import Survey
from components.data.sources.base import NONE, SPLITS, Refusal, Source
from components.errors import UserError
from components.params import Preprocess

# A cluster of near-duplicates that holds more of the images than this says more of the distance than of the images.
_LARGE = 0.05


class TooManyRefusedError(UserError):
    """`quarantine` has all that cannot be used."""

    def __init__(self, text: str, quarantine: list[Refusal]) -> None:
        super().__init__(text)
        self.quarantine = quarantine


@dataclass(frozen=True)
class Decision:
    """`split` (index into SPLITS, NONE if unused) and `label` (index into `classes`) of each accepted image of a survey.

    `quarantine` are the lines of the file, among them `dropped` duplicates; `clusters` the near-duplicates, as arrays of
    images; `warnings` what a person should know."""

    split: np.ndarray
    label: np.ndarray
    classes: list[str]
    quarantine: list[Refusal]
    dropped: int
    clusters: list[np.ndarray]
    warnings: list[str]

    @property
    def counts(self) -> np.ndarray:
        """Images per class and split, `int64 (classes, 3)`."""
        used = self.split != NONE
        return np.bincount(self.label[used] * 3 + self.split[used], minlength=3 * len(self.classes)).reshape(-1, 3)


def decide(found: Survey, settings: Preprocess, seed: int) -> Decision:
    """Raises:
    TooManyRefusedError: more than `max_quarantined_fraction`.
    UserError: one image is in several of the source's splits, or a split is left empty.
    """
    source, rows = found.source, found.facts["row"]
    names, label = _labels(source, rows)
    given = source.entries.splits[rows]
    # Of several copies the first stays, one that the source gives a split before one that is still to be drawn.
    order = np.argsort(given == NONE, kind="stable")
    first = np.empty(len(order), np.int64)
    first[order] = order[duplicates.same(found.facts["digest"][order])]
    wrong = duplicates.contradicting(first, label)
    quarantine = found.refused + list(_two_labels(found, first, np.flatnonzero(wrong)))
    _check_share(quarantine, len(source.entries) + len(source.refused), settings)
    _check_leaks(found, given, first, ~wrong)
    again = np.flatnonzero(~wrong & (first != np.arange(len(first)))) if settings.duplicates == "drop" else np.empty(0, int)
    quarantine += [
        Refusal(found.entry(row).id, "duplicate", f"of {found.entry(int(first[row])).id}", found.content(row))
        for row in again.tolist()
    ]
    wrong[again] = True
    used = np.flatnonzero(~wrong)
    near = duplicates.near(found.facts["hash"][used], settings.near_distance) if settings.near_duplicates != "ignore" else None
    split = np.full(len(rows), NONE, np.int8)
    groups = source.entries.groups.names
    group = source.entries.groups.codes[rows[used]]
    alone = np.array([name == "" for name in groups])[group]
    copies = duplicates.same(first[used])
    together = [copies, np.where(alone, np.arange(len(used)), duplicates.same(group))]
    if near is not None and settings.near_duplicates == "group":
        together.append(near)
    digests = found.facts["digest"]

    def key(row: int) -> bytes:
        return groups[group[row]].encode() or bytes(digests[used[row]])

    split[used] = splits.assign(given[used], _units(together), key, settings.val_fraction, settings.test_fraction, seed)
    names, label, gone = _present(found, names, label, used)
    clusters = [] if near is None else _clusters(used, near, copies)
    decision = Decision(split, label, names, sorted(quarantine), len(again), clusters, [])
    decision.warnings.extend(_warnings(decision, gone, settings))
    return decision


def _labels(source: Source, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    labels = source.entries.labels
    names = list(source.classes) or sorted(labels.names)
    number = {name: n for n, name in enumerate(names)}
    return names, np.array([number[name] for name in labels.names], np.int64)[labels.codes[rows]]


def _present(found: Survey, names: list[str], label: np.ndarray, used: np.ndarray) -> tuple[list[str], np.ndarray, list[str]]:
    """Classes and labels without the classes that have no image left, and these, unless the source's own list stands."""
    present = np.bincount(label[used], minlength=len(names)) > 0
    gone = sorted({*found.source.empty, *(name for name, there in zip(names, present, strict=True) if not there)})
    if found.source.complete:
        return names, label, gone
    return [name for name, there in zip(names, present, strict=True) if there], np.cumsum(present)[label] - 1, gone


def _units(together: list[np.ndarray]) -> np.ndarray:
    """Which images go together, given for each reason and image one that it goes with."""
    rows = np.arange(len(together[0]))
    edges = (np.ones(len(rows) * len(together), bool), (np.tile(rows, len(together)), np.concatenate(together)))
    units: np.ndarray = connected_components(coo_array(edges, shape=(len(rows),) * 2), directed=False)[1]
    return units


def _two_labels(found: Survey, first: np.ndarray, rows: np.ndarray) -> Iterable[Refusal]:
    labels: dict[int, set[str]] = {}
    for row in rows:
        labels.setdefault(int(first[row]), set()).add(found.entry(row).label)
    for row in rows:
        detail = f"the same pixels are in {', '.join(sorted(labels[int(first[row])]))}"
        yield Refusal(found.entry(row).id, "two labels", detail, found.content(row))


def _check_share(quarantine: list[Refusal], total: int, settings: Preprocess) -> None:
    share = len(quarantine) / total
    if share > settings.max_quarantined_fraction:
        reasons = Counter(refusal.reason for refusal in quarantine)
        examples = {refusal.reason: refusal for refusal in reversed(quarantine)}
        found = f"{len(quarantine):,} of {total:,} images ({share:.2%}) cannot be used"
        lines = [f"  {n:>7,} {why}: {examples[why].path} ({examples[why].detail})" for why, n in reasons.most_common()]
        raise TooManyRefusedError(
            f"{found}; preprocess.max_quarantined_fraction allows {settings.max_quarantined_fraction:.2%}. "
            "Mend them or raise it. By reason, with one of each:\n" + "\n".join(lines),
            quarantine,
        )


def _check_leaks(found: Survey, given: np.ndarray, first: np.ndarray, rows: np.ndarray) -> None:
    leaks = np.flatnonzero(rows & (given != NONE) & (given != given[first]))
    if len(leaks):
        pairs = "; ".join(f"{found.entry(row).id} = {found.entry(first[row]).id}" for row in leaks[:5])
        raise UserError(
            f"{len(leaks):,} images are in two of the source's splits with the same pixels, which would make what is measured "
            f"too good: {pairs}{'; ...' if len(leaks) > 5 else ''}. Take each out of one of them"
        )


def _clusters(used: np.ndarray, near: np.ndarray, same: np.ndarray) -> list[np.ndarray]:
    """Images of each near-duplicate cluster, the largest first; copies of one another alone are none."""
    order = np.argsort(near, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(near[order])) + 1)
    return sorted((used[part] for part in parts if len(part) > 1 and len(set(same[part])) > 1), key=lambda c: (-len(c), c[0]))


def _warnings(decision: Decision, gone: list[str], settings: Preprocess) -> Iterable[str]:
    if gone:
        yield f"classes without an image: {', '.join(gone)}"
    counts = decision.counts
    there = [(name, row) for name, row in zip(decision.classes, counts, strict=True) if row.sum()]
    for split, name in enumerate(SPLITS):
        missing = [label for label, row in there if not row[split]]
        if missing:
            yield f"classes missing from {name}: {', '.join(missing)}"
    tiny = [f"{label} ({row[0]})" for label, row in there if 0 < row[0] < settings.min_class_images]
    if tiny:
        yield f"classes with fewer than {settings.min_class_images} training images: {', '.join(tiny)}"
    if decision.clusters and len(decision.clusters[0]) > _LARGE * counts.sum():
        yield (
            f"one cluster of near-duplicates holds {len(decision.clusters[0]):,} of {counts.sum():,} images: each is near some "
            f"other, not near all; look at them in the report and lower near_distance (now {settings.near_distance})"
        )
    if decision.clusters and settings.near_duplicates == "report":
        apart = sum(len(set(decision.split[cluster].tolist())) > 1 for cluster in decision.clusters)
        if apart:
            yield f"{apart:,} clusters of near-duplicates lie in several splits (`near_duplicates: group` keeps each in one)"
