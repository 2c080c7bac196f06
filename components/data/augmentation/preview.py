"""What augmentation does, as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from components.data.augmentation.offline import augment
from components.data.format.images import Images
from components.params import Augment


class Samples:
    """The first image of each class, of images that come piece by piece."""

    def __init__(self, classes: int) -> None:
        self.wanted, self.found = set(range(classes)), list[Images]()

    def add(self, images: Images) -> None:
        for label in sorted(self.wanted & set(images.labels.tolist())):
            self.found.append(images.take(np.flatnonzero(images.labels == label)[:1]))
            self.wanted.discard(label)

    def images(self) -> Images:
        return Images.concatenate(sorted(self.found, key=lambda one: int(one.labels[0])))


def preview(images: Images, classes: list[str], settings: Augment, seed: int, path: Path, copies: int = 6) -> None:
    """Writes a PNG with one row per class (the first 20): its first image, and beside it its first copies.

    The first `settings.copies` of them are those of the materialised split; the rest show what more would look like.
    """
    first = [int(rows[0]) for label in range(len(classes)) if len(rows := np.flatnonzero(images.labels == label))][:20]
    originals = images.take(np.array(first))
    shown = augment(originals, settings.model_copy(update={"copies": copies, "balance": False}), seed)
    columns = 1 + (copies if settings.policy else 0)
    figure = Figure(figsize=(1.6 + 0.9 * columns, 0.9 * len(first) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(first), columns, squeeze=False)
    for row in range(len(first)):
        for column in range(columns):
            index = row if column == 0 else len(first) + row * copies + column - 1
            axis = axes[row][column]
            pixels = shown.pixels[index]
            axis.imshow(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels[..., :3], cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title("original" if column == 0 else f"copy {column}", fontsize=8)
        axes[row][0].set_ylabel(classes[int(originals.labels[row])], rotation=0, ha="right", va="center", fontsize=8)
    # Without a fixed Software entry the bytes would name matplotlib's version, which is no part of the picture.
    figure.savefig(path, dpi=100, metadata={"Software": None})
