"""Writing of the selected images as splits on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.data.format.images import Images
from components.data.format.shards import ChannelHistogram, SplitWriter
from components.data.preparation.selection import Selection
from components.data.preparation.survey import Survey
from components.data.sources.base import SPLITS
from components.records.splits import Manifest, Preparation


def write_splits(
    folder: Path, survey: Survey, selection: Selection, shard_mb: int, preparation: Preparation
) -> dict[str, Manifest]:
    """Write each split into a subfolder of `folder`; return the manifests by split.

    Images are in the order of the source. Only one row group is in memory at a time. The manifest
    of `train` has the channel statistics and the preparation.
    """
    manifests = {}
    for number, split in enumerate(SPLITS):
        writer = SplitWriter(folder / split, split, survey.shape, selection.classes, shard_mb)
        histogram = ChannelHistogram(survey.shape[2])
        rows = np.flatnonzero(selection.splits == number)
        for start in range(0, len(rows), writer.rows_per_group):
            part = rows[start : start + writer.rows_per_group]
            images = Images(
                pixels=survey.read_pixels(part),
                labels=selection.labels[part],
                ids=[survey.get_entry(row).id for row in part],
            )
            if split == "train":
                histogram.add(images.pixels)
            writer.add(images)
        origin = {"raw": survey.sha256}
        if split == "train":
            channels = histogram.compute_statistics()
            manifests[split] = writer.finish(channels, origin, preparation)
        else:
            manifests[split] = writer.finish(origin=origin)
    return manifests
