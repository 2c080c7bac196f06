"""The HTML report about the prepared data."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from components.data.preparation.conversion import to_image
from components.data.preparation.resizing import ResizingSummary
from components.data.preparation.selection import Selection
from components.data.preparation.survey import Survey
from components.data.sources.base import NO_SPLIT, SPLITS, Refusal
from components.params import Preprocess

_MAX_CLASSES = 100
_PICTURES_PER_CLASS = 8
_MAX_CLUSTERS = 24
_PICTURES_PER_CLUSTER = 8
_EXAMPLES_PER_REASON = 12
_MAX_SIZES = 12
# Largest side of a picture in the report, and largest side to store losslessly; in pixels.
_PICTURE_SIDE = 64
_PNG_SIDE = 32


class Bar(NamedTuple):
    """One bar of a chart; `percent` is its length relative to the longest bar."""

    label: str
    images: int
    percent: float


@dataclass(frozen=True)
class ClassRow:
    """Facts about one class; pictures are data URLs."""

    name: str
    bars: list[Bar]
    """One bar per split."""
    total: int
    sides: tuple[int, int, int]
    """Least, median and largest shorter side of the source's pictures, in pixels."""
    grey: float
    """Mean grey level, 0 to 255."""
    kilobytes: float
    """Mean size of a file, in KiB."""
    pictures: list[str]


@dataclass(frozen=True)
class ClusterMember:
    """One image of a cluster of near-duplicates; `picture` is a data URL."""

    id: str
    split: str
    label: str
    picture: str


@dataclass(frozen=True)
class Cluster:
    """A cluster of near-duplicates, with the first of its members."""

    size: int
    members: list[ClusterMember]
    num_labels: int
    num_splits: int


@dataclass(frozen=True)
class ReasonRow:
    """A reason for not using images, the number of these images, and some of them."""

    reason: str
    images: int
    examples: list[Refusal]


def write_report(
    path: Path,
    survey: Survey,
    selection: Selection,
    settings: Preprocess,
    resizing: ResizingSummary,
) -> None:
    """Write the report as one HTML file that contains its pictures.

    The same data give the same bytes. Names from the data are escaped.
    """
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    entries = survey.source.entries
    counts = selection.counts
    used = selection.splits != NO_SPLIT
    source_splits = set(entries.splits.tolist()) - {NO_SPLIT}
    text = page.get_template("report.html.jinja").render(
        settings=settings,
        source=survey.source,
        shape=survey.shape,
        listed=survey.source.num_listed,
        used=int(used.sum()),
        quarantined=len(selection.quarantine) - selection.num_dropped,
        dropped=selection.num_dropped,
        warnings=selection.warnings + resizing.warnings,
        long_warnings=selection.long_warnings,
        resizing=resizing.text,
        splits=list(zip(SPLITS, counts.sum(axis=0).tolist(), strict=True)),
        source_splits=[SPLITS[split] for split in source_splits],
        classes=_make_class_rows(survey, selection, counts),
        more_classes=max(0, len(selection.classes) - _MAX_CLASSES),
        reasons=_count_reasons(selection.quarantine),
        clusters=_make_clusters(survey, selection),
        num_clusters=len(selection.near_clusters),
        grey_levels=_make_histogram(survey.facts["grey"][used], np.linspace(0, 256, 33)),
        sizes=_count_sizes(survey, used),
    )
    path.write_text(text, encoding="utf-8")


def _count_reasons(quarantine: list[Refusal]) -> list[ReasonRow]:
    """Return the reasons, the most frequent first."""
    by_reason: dict[str, list[Refusal]] = defaultdict(list)
    for refusal in quarantine:
        by_reason[refusal.reason].append(refusal)
    reasons = [
        ReasonRow(reason, len(refusals), refusals[:_EXAMPLES_PER_REASON])
        for reason, refusals in by_reason.items()
    ]
    return sorted(reasons, key=lambda row: (-row.images, row.reason))


def _make_class_rows(survey: Survey, selection: Selection, counts: np.ndarray) -> list[ClassRow]:
    largest = max(1, int(counts.sum(axis=1).max()))
    rows = []
    for label, name in enumerate(selection.classes[:_MAX_CLASSES]):
        members = np.flatnonzero((selection.labels == label) & (selection.splits != NO_SPLIT))
        facts = survey.facts[members]
        sides = np.zeros(1, int)
        if len(members):
            sides = np.sort(np.minimum(facts["height"], facts["width"]))
        # Pick from the whole class, because its first images are often one series.
        num_pictures = min(_PICTURES_PER_CLASS, len(members))
        shown = members[np.linspace(0, len(members) - 1, num_pictures).astype(int)]
        rows.append(
            ClassRow(
                name=name,
                bars=[
                    Bar(split, int(n), float(100 * n / largest))
                    for split, n in zip(SPLITS, counts[label], strict=True)
                ],
                total=int(counts[label].sum()),
                sides=(int(sides[0]), int(sides[len(sides) // 2]), int(sides[-1])),
                grey=float(facts["grey"].mean()) if len(members) else 0.0,
                kilobytes=float(facts["bytes"].mean()) / 1024 if len(members) else 0.0,
                pictures=[encode_picture(pixels) for pixels in survey.read_pixels(shown)],
            )
        )
    return rows


def _make_clusters(survey: Survey, selection: Selection) -> list[Cluster]:
    clusters = []
    for cluster in selection.near_clusters[:_MAX_CLUSTERS]:
        shown = cluster[:_PICTURES_PER_CLUSTER]
        members = [
            ClusterMember(
                id=survey.get_entry(index).id,
                split=SPLITS[selection.splits[index]],
                label=selection.classes[selection.labels[index]],
                picture=encode_picture(pixels),
            )
            for index, pixels in zip(shown, survey.read_pixels(shown), strict=True)
        ]
        clusters.append(
            Cluster(
                size=len(cluster),
                members=members,
                num_labels=len(np.unique(selection.labels[cluster])),
                num_splits=len(np.unique(selection.splits[cluster])),
            )
        )
    return clusters


def _count_sizes(survey: Survey, used: np.ndarray) -> list[Bar]:
    """Return the most frequent sizes of the source's pictures, as width x height."""
    facts = survey.facts[used]
    sizes = Counter(zip(facts["width"].tolist(), facts["height"].tolist(), strict=True))
    top = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:_MAX_SIZES]
    highest = top[0][1]
    return [Bar(f"{width} x {height}", n, 100 * n / highest) for (width, height), n in top]


def _make_histogram(values: np.ndarray, edges: np.ndarray) -> list[Bar]:
    """Return a bar per bin, labelled with the lower edge of the bin."""
    counts, _ = np.histogram(values, edges)
    highest = max(1, int(counts.max()))
    return [
        Bar(str(int(edge)), int(n), float(100 * n / highest))
        for edge, n in zip(edges[:-1], counts, strict=True)
    ]


def encode_picture(pixels: np.ndarray) -> str:
    """Return `uint8 (H, W, C)` as a data URL of a small picture."""
    image = to_image(pixels)
    if max(image.size) > _PICTURE_SIDE:
        image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.BILINEAR)
    data = BytesIO()
    if max(image.size) <= _PNG_SIDE:
        form = "png"
        image.save(data, "PNG")
    else:
        form = "jpeg"
        image.save(data, "JPEG", quality=80)
    return f"data:image/{form};base64,{base64.b64encode(data.getvalue()).decode()}"
