"""Selection of the images that are used, and assignment of each to one split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.data.preparation import duplicates
from components.data.preparation.class_checks import (
    MAX_NAMED,
    ClassWarning,
    check_counts,
    list_class_warnings,
)
from components.data.preparation.exclusion import exclude_images
from components.data.preparation.splits import SplitAssignment, SplitInput, assign_splits
from components.data.preparation.survey import Survey
from components.data.sources.base import NO_SPLIT, ImageSource, Refusal
from components.params import Preprocess

# A larger share of the images in one cluster of near-duplicates suggests that `near_distance` is
# too large, not that the images look the same.
_LARGE_CLUSTER_SHARE = 0.05


@dataclass(frozen=True)
class Selection:
    """Split and label of each accepted image of a survey."""

    splits: np.ndarray
    """Index into SPLITS, `int8 (N,)`; NO_SPLIT for images that are not used."""
    labels: np.ndarray
    """Index into `classes`, `int64 (N,)`."""
    classes: list[str]
    quarantine: list[Refusal]
    """All images of the source that are not used, dropped duplicates included."""
    num_dropped: int
    """Number of dropped duplicates."""
    near_clusters: list[np.ndarray]
    """Clusters of near-duplicates as indices of images, the largest first."""
    warnings: list[str] = field(default_factory=list)
    """Warnings, in which long lists of classes are cut."""
    long_warnings: list[ClassWarning] = field(default_factory=list)
    """Those of the warnings whose lists are cut, with all their names."""

    @property
    def counts(self) -> np.ndarray:
        """Number of used images per class and split, `int64 (classes, 3)`."""
        used = self.splits != NO_SPLIT
        cells = self.labels[used] * 3 + self.splits[used]
        return np.bincount(cells, minlength=3 * len(self.classes)).reshape(-1, 3)


def select_images(survey: Survey, settings: Preprocess, seed: int) -> Selection:
    """Refuse contradicting labels, drop or keep duplicates, and assign splits to the other images.

    Raises:
        TooManyRefusedError: more images than `max_quarantined_fraction` are refused.
        UserError: an image is in several of the source's splits, a split is empty, or the images
            of one class only are left.
    """
    source = survey.source
    all_classes, all_labels = _number_labels(source, survey.facts["row"])
    exclusion = exclude_images(survey, all_labels, settings)
    used = exclusion.used
    copies = duplicates.find_first_occurrences(exclusion.originals[used])
    near = _find_near_duplicates(survey, used, settings)
    together = [copies]
    if near is not None and settings.near_duplicates == "group":
        together.append(near)
    assignment = _assign_splits(
        survey, used, together, all_labels[used], all_classes, settings, seed
    )
    splits = np.full(len(all_labels), NO_SPLIT, np.int8)
    splits[used] = assignment.splits
    classes, labels, empty = _remove_empty_classes(source, all_classes, all_labels, used)
    selection = Selection(
        splits=splits,
        labels=labels,
        classes=classes,
        quarantine=sorted(exclusion.quarantine),
        num_dropped=exclusion.num_dropped,
        near_clusters=[] if near is None else _list_clusters(used, near, copies),
    )
    check_counts(selection.counts, classes, settings)
    missed = [name for name, off in zip(all_classes, assignment.missed, strict=True) if off]
    return _add_warnings(selection, empty, missed, settings)


def _number_labels(source: ImageSource, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the classes of a source, and the index into them of the label of each row."""
    column = source.entries.labels
    classes = list(source.classes) or sorted(column.categories)
    number = {name: n for n, name in enumerate(classes)}
    numbers = np.array([number[name] for name in column.categories], np.int64)
    return classes, numbers[column.codes[rows]]


def _find_near_duplicates(
    survey: Survey, used: np.ndarray, settings: Preprocess
) -> np.ndarray | None:
    """Return for each used image the first of its cluster, or None if they are to be ignored."""
    if settings.near_duplicates == "ignore":
        return None
    return duplicates.find_near_duplicates(survey.facts["hash"][used], settings.near_distance)


def _assign_splits(
    survey: Survey,
    used: np.ndarray,
    together: list[np.ndarray],
    labels: np.ndarray,
    classes: list[str],
    settings: Preprocess,
    seed: int,
) -> SplitAssignment:
    """Assign each used image to a split.

    Args:
        together: Each array holds, for each used image, an image that must be in the same split.
        labels: Index into `classes` of each used image.
    """
    entries = survey.source.entries
    rows = survey.facts["row"][used]
    digests = survey.facts["digest"]
    names = entries.groups.categories
    groups = entries.groups.codes[rows]
    ungrouped = np.array([name == "" for name in names])[groups]
    first_of_group = duplicates.find_first_occurrences(groups)
    same_group = np.where(ungrouped, np.arange(len(used)), first_of_group)

    def key(index: int) -> bytes:
        return names[groups[index]].encode() or bytes(digests[used[index]])

    images = SplitInput(
        source_splits=entries.splits[rows],
        labels=labels,
        classes=classes,
        units=_connect([*together, same_group]),
        key=key,
    )
    return assign_splits(images, settings.val_fraction, settings.test_fraction, seed)


def _connect(together: list[np.ndarray]) -> np.ndarray:
    """Return the connected component of each image, given arrays of linked images."""
    size = len(together[0])
    sources = np.tile(np.arange(size), len(together))
    edges = (np.ones(len(sources), bool), (sources, np.concatenate(together)))
    graph = coo_array(edges, shape=(size, size))
    components: np.ndarray = connected_components(graph, directed=False)[1]
    return components


def _remove_empty_classes(
    source: ImageSource, classes: list[str], labels: np.ndarray, used: np.ndarray
) -> tuple[list[str], np.ndarray, list[str]]:
    """Remove classes without used images; return the classes, the labels and the empty classes.

    A source with fixed classes keeps all of them.
    """
    present = np.bincount(labels[used], minlength=len(classes)) > 0
    kept = [name for name, keep in zip(classes, present, strict=True) if keep]
    empty = sorted({*source.empty_classes, *classes} - {*kept})
    if source.fixed_classes:
        return classes, labels, empty
    return kept, np.cumsum(present)[labels] - 1, empty


def _list_clusters(used: np.ndarray, near: np.ndarray, copies: np.ndarray) -> list[np.ndarray]:
    """Return the images of each cluster of near-duplicates, the largest cluster first.

    Clusters that consist of exact duplicates only are left out.
    """
    order = np.argsort(near, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(near[order])) + 1)
    clusters = [used[part] for part in parts if len(set(copies[part])) > 1]
    return sorted(clusters, key=lambda cluster: (-len(cluster), cluster[0]))


def _add_warnings(
    selection: Selection, empty: list[str], missed: list[str], settings: Preprocess
) -> Selection:
    """Return the selection with warnings about its classes and clusters.

    Args:
        empty: Classes without images.
        missed: Classes whose drawn shares are off.
    """
    about_classes = list(
        list_class_warnings(selection.classes, selection.counts, empty, missed, settings)
    )
    return replace(
        selection,
        warnings=[*map(str, about_classes), *_list_cluster_warnings(selection, settings)],
        long_warnings=[warning for warning in about_classes if len(warning.names) > MAX_NAMED],
    )


def _list_cluster_warnings(selection: Selection, settings: Preprocess) -> Iterator[str]:
    total = selection.counts.sum()
    clusters = selection.near_clusters
    if clusters and len(clusters[0]) > _LARGE_CLUSTER_SHARE * total:
        yield (
            f"one cluster of near-duplicates holds {len(clusters[0]):,} of {total:,} images: "
            "each is near some other, not near all; look at them in the report and lower "
            f"near_distance (now {settings.near_distance})"
        )
    if settings.near_duplicates == "report":
        torn = sum(len(set(selection.splits[cluster].tolist())) > 1 for cluster in clusters)
        if torn:
            yield (
                f"{torn:,} clusters of near-duplicates lie in several splits "
                "(`near_duplicates: group` keeps each in one)"
            )
