"""What the data is like, as a page that needs nothing but itself, and the list of what is not used."""

from __future__ import annotations

import base64
import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from components.data.preparation.decide import Decision
from components.data.preparation.survey import Survey
from components.data.sources.base import NONE, SPLITS, Refusal
from components.params import Preprocess

_SAMPLES, _CLASSES, _CLUSTERS, _MEMBERS, _EXAMPLES, _SIDE = 8, 100, 24, 8, 12, 64


def write_quarantine(path: Path, quarantine: Sequence[Refusal]) -> None:
    """One line per image that is not used: path, reason, detail, digest (SHA-256 of the file)."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Refusal._fields)
        writer.writerows(quarantine)


def write_report(path: Path, found: Survey, decision: Decision, settings: Preprocess) -> None:
    """One HTML file, pictures included. The same data give the same bytes; names from the data are shown as text."""
    here = Path(__file__).parent
    page = Environment(loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    listed = len(found.source.entries) + len(found.source.refused)
    counts = decision.counts
    reasons: dict[str, list[Refusal]] = defaultdict(list)
    for refusal in decision.quarantine:
        reasons[refusal.reason].append(refusal)
    used = decision.split != NONE
    text = page.get_template("report.html.jinja").render(
        settings=settings,
        shape=found.shape,
        listed=listed,
        used=int(used.sum()),
        quarantined=len(decision.quarantine) - decision.dropped,
        dropped=decision.dropped,
        warnings=decision.warnings,
        splits=list(zip(SPLITS, counts.sum(axis=0).tolist(), strict=True)),
        given=sorted(SPLITS[split] for split in set(found.source.entries.splits.tolist()) - {NONE}),
        classes=_classes(found, decision, counts),
        more_classes=max(0, len(decision.classes) - _CLASSES),
        reasons=sorted(
            ((reason, len(rows), rows[:_EXAMPLES]) for reason, rows in reasons.items()), key=lambda r: (-r[1], r[0])
        ),
        clusters=_clusters(found, decision),
        near=len(decision.clusters),
        levels=_histogram(found.facts["grey"][used], np.linspace(0, 256, 33)),
        sizes=_sizes(found, used),
    )
    path.write_text(text, encoding="utf-8")


def _classes(found: Survey, decision: Decision, counts: np.ndarray) -> list[dict[str, Any]]:
    largest = max(1, int(counts.sum(axis=1).max()))
    rows = []
    for label, name in enumerate(decision.classes[:_CLASSES]):
        members = np.flatnonzero((decision.label == label) & (decision.split != NONE))
        facts = found.facts[members]
        # Evenly from the whole class, not its first: those are often one series.
        shown = members[np.linspace(0, len(members) - 1, min(_SAMPLES, len(members))).astype(int)]
        sides = np.sort(np.minimum(facts["height"], facts["width"])) if len(members) else np.zeros(1, int)
        rows.append(
            {
                "name": name,
                "counts": list(zip(SPLITS, counts[label].tolist(), (100 * counts[label] / largest).tolist(), strict=True)),
                "total": int(counts[label].sum()),
                "sides": (int(sides[0]), int(sides[len(sides) // 2]), int(sides[-1])),
                "grey": float(facts["grey"].mean()) if len(members) else 0.0,
                "kilobytes": float(facts["bytes"].mean()) / 1024 if len(members) else 0.0,
                "pictures": [picture(pixels) for pixels in found.pixels(shown)],
            }
        )
    return rows


def _clusters(found: Survey, decision: Decision) -> list[dict[str, Any]]:
    rows = []
    for cluster in decision.clusters[:_CLUSTERS]:
        shown = cluster[:_MEMBERS]
        members = [
            (
                found.entry(row).id,
                SPLITS[decision.split[row]],
                decision.classes[decision.label[row]],
                picture(pixels),
            )
            for row, pixels in zip(shown, found.pixels(shown), strict=True)
        ]
        labels, splits = {int(n) for n in decision.label[cluster]}, {int(n) for n in decision.split[cluster]}
        rows.append({"size": len(cluster), "members": members, "labels": len(labels), "splits": len(splits)})
    return rows


def _sizes(found: Survey, used: np.ndarray) -> list[tuple[str, int, float]]:
    """The most frequent sizes of the pictures: text, count, share of the most frequent in percent."""
    facts = found.facts[used]
    common = Counter(zip(facts["width"].tolist(), facts["height"].tolist(), strict=True)).most_common()
    top = sorted(common, key=lambda item: (-item[1], item[0]))[:12]
    return [(f"{width} x {height}", n, 100 * n / top[0][1]) for (width, height), n in top]


def _histogram(values: np.ndarray, edges: np.ndarray) -> list[tuple[int, int, float]]:
    """Lower edge, count, and share of the highest bar in percent."""
    counts, _ = np.histogram(values, edges)
    highest = max(1, int(counts.max()))
    return [(int(edge), int(n), 100 * n / highest) for edge, n in zip(edges[:-1], counts, strict=True)]


def picture(pixels: np.ndarray) -> str:
    """`uint8 (H, W, C)` as a small picture that a page can carry in itself."""
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    if max(image.size) > _SIDE:
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    data = BytesIO()
    form, options = ("PNG", {}) if max(image.size) <= 32 else ("JPEG", {"quality": 80})
    image.save(data, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
