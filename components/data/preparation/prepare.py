"""From decisions to splits on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.data.format.images import Images
from components.data.format.shards import ChannelCounts, Writer
from components.data.preparation.decide import Decision
from components.data.preparation.survey import Survey
from components.data.sources.base import SPLITS
from components.records.splits import Manifest


def write_splits(folder: Path, found: Survey, decision: Decision, shard_mb: int) -> dict[str, Manifest]:
    """Writes every split below `folder`, its images in the source's order, a row group's worth in memory at a time."""
    manifests = {}
    for number, split in enumerate(SPLITS):
        writer = Writer(folder / split, split, found.shape, decision.classes, shard_mb)
        counts = ChannelCounts(found.shape[2])
        rows = np.flatnonzero(decision.split == number)
        for start in range(0, len(rows), writer.rows_per_group):
            part = rows[start : start + writer.rows_per_group]
            images = Images(found.pixels(part), decision.label[part], [found.entry(row).id for row in part])
            if split == "train":
                counts.add(images.pixels)
            writer.add(images)
        manifests[split] = writer.finish(counts.statistics() if split == "train" else None, {"raw": found.sha256})
    return manifests
