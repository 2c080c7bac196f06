"""Refusals and warnings about classes: too few of them, or too few of their images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from components.data.preparation.quotas import TEST, TRAIN, VAL, compute_quotas
from components.data.preparation.splits import SplitRequest
from components.data.sources.base import SPLITS, ImageSource, name_some
from components.errors import UserError
from components.params import Preprocess

MAX_NAMED = 5
"""Names in a warning. Longer lists are cut; the report has the whole list."""


class ClassWarning(NamedTuple):
    """A warning that names classes."""

    text: str
    names: list[str]

    def __str__(self) -> str:
        more = "; see the report" if len(self.names) > MAX_NAMED else ""
        return f"{self.text}: {name_some(self.names, MAX_NAMED)}{more}"


def check_source(source: ImageSource, settings: Preprocess) -> None:
    """Refuse a source that cannot give three splits of at least two classes, by its list alone.

    Raises:
        UserError: all images or all training images are of one class, or a split would be empty.
    """
    entries = source.entries
    splits = entries.splits
    labels = entries.labels.codes
    names = entries.labels.categories
    num_classes = len(names)
    counts = np.zeros((num_classes, len(SPLITS)), np.int64)
    request = SplitRequest.make(splits, settings.val_fraction, settings.test_fraction)
    kept = ~request.drawable
    np.add.at(counts, (labels[kept], splits[kept]), 1)
    drawn = np.bincount(labels[request.drawable], minlength=num_classes)
    halves = np.full(num_classes, 0.5)
    quotas = compute_quotas(drawn, halves, request.val_share, request.test_share)
    # Of classes of two images, some are drawn for the test and the others for validation.
    if request.val_share and request.test_share and (drawn == 2).sum() > 1:
        quotas[np.flatnonzero(drawn == 2)[:2], VAL] = 1
        quotas[np.flatnonzero(drawn == 2)[:2], TEST] = 1
    if len(entries):
        check_counts(counts + quotas, names, settings)
        _check_number_of_groups(source, request, settings)


def check_counts(counts: np.ndarray, classes: Sequence[str], settings: Preprocess) -> None:
    """Refuse splits that cannot train and measure a classifier.

    Args:
        counts: Number of images per class and split, `int (classes, 3)`.
        classes: Names of the classes.
        settings: Section `preprocess`; messages name its keys.

    Raises:
        UserError: all images or all training images are of one class, or a split is empty.
    """
    path = settings.source.path
    total = int(counts.sum())
    present = [name for name, row in zip(classes, counts, strict=True) if row.sum()]
    if len(present) == 1:
        raise UserError(
            f"{path}: all {total:,} images are of one class, {present[0]!r}; a classifier needs at "
            f"least two. {_advise(settings)}"
        )
    empty = [name for name, n in zip(SPLITS, counts.sum(axis=0), strict=True) if not n]
    if empty:
        per_class = counts.sum(axis=1)
        raise UserError(
            f"{path}: no image falls into {' and '.join(empty)}, of {total:,} images of "
            f"{len(present):,} classes (the largest has {int(per_class.max()):,}). A class is in "
            "train, val and test from its third image or group on, duplicates counted as one: "
            f"bring more images of each class, or join classes. {_advise(settings)}"
        )
    trained = [name for name, n in zip(classes, counts[:, TRAIN], strict=True) if n]
    if len(trained) == 1:
        raise UserError(
            f"{path}: all training images are of one class, {trained[0]!r}; a classifier needs at "
            f"least two. {_advise(settings)}"
        )


def _check_number_of_groups(
    source: ImageSource, request: SplitRequest, settings: Preprocess
) -> None:
    """Refuse fewer groups than splits to draw."""
    groups = source.entries.groups
    codes = groups.codes[request.drawable]
    grouped = np.array([bool(name) for name in groups.categories])[codes]
    num_units = len(np.unique(codes[grouped])) + int((~grouped).sum())
    shares = zip(SPLITS[VAL:], (request.val_share, request.test_share), strict=True)
    drawn = [name for name, share in shares if share]
    if not (source.entries.splits[~request.drawable] == TRAIN).any():
        drawn.insert(0, "train")
    if num_units < len(drawn):
        raise UserError(
            f"{settings.source.path}: {num_units} groups cannot be divided into "
            f"{', '.join(drawn)}; a group stays in one split. Bring images of more groups, or "
            "leave out preprocess.source.group_column"
        )


def _advise(settings: Preprocess) -> str:
    """Return advice about the place where the classes of a kind of source come from."""
    match settings.source.kind:
        case "image_folder":
            return "Each class is a folder of images below preprocess.source.path"
        case "csv" | "parquet":
            return "Classes come from the column preprocess.source.label_column"
        case _:
            return "Classes come from the labels of the data set"


def list_class_warnings(
    classes: Sequence[str],
    counts: np.ndarray,
    empty_classes: list[str],
    missed: Sequence[str],
    settings: Preprocess,
) -> Iterator[ClassWarning]:
    """Yield warnings about classes that are empty, missing from a split, tiny or off their shares.

    Args:
        classes: Names of the classes.
        counts: Number of used images per class and split, `int (classes, 3)`.
        empty_classes: Names of classes without an image.
        missed: Names of classes whose shares are off, because images stay together.
        settings: Section `preprocess`.
    """
    if empty_classes:
        yield ClassWarning("classes without an image", empty_classes)
    present = [(name, row) for name, row in zip(classes, counts, strict=True) if row.sum()]
    for split, split_name in enumerate(SPLITS):
        missing = [name for name, row in present if not row[split]]
        if missing:
            yield ClassWarning(f"classes missing from {split_name}", missing)
    minimum = settings.min_class_images
    tiny = [f"{name} ({row[TRAIN]})" for name, row in present if 0 < row[TRAIN] < minimum]
    if tiny:
        yield ClassWarning(f"classes with fewer than {minimum} training images", tiny)
    names = set(missed)
    off = [
        f"{name} ({row[TRAIN]:,} / {row[VAL]:,} / {row[TEST]:,})"
        for name, row in present
        if name in names
    ]
    if off:
        yield ClassWarning(
            "groups or duplicates that stay together keep classes from the shares asked for "
            "(train / val / test)",
            off,
        )
