"""The preview of the augmentation policy: originals and copies of each class as one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from components.data.format.images import Images
from components.figures import label_fonts, show_image
from components.params import Augment

_MAX_CLASSES = 20


class FirstImages:
    """Collector of the first image of each class, from images that are added in parts."""

    def __init__(self, classes: int) -> None:
        self.missing = set(range(classes))
        self.collected: list[Images] = []

    def add(self, images: Images) -> None:
        """Keep the first image of each class that has none yet."""
        for label in sorted(self.missing & set(images.labels.tolist())):
            self.collected.append(images.take(np.flatnonzero(images.labels == label)[:1]))
            self.missing.discard(label)

    def images(self) -> Images:
        """Return one image per class that has images, in the order of the classes."""
        return Images.concatenate(sorted(self.collected, key=lambda image: int(image.labels[0])))


def plot_preview(
    images: Images, classes: list[str], settings: Augment, seed: int, path: Path, copies: int = 6
) -> None:
    """Write a PNG with one row per class (at most 20): its first image and copies of that image.

    The first `settings.copies` copies are those of the augmented split; the others show further
    results of the policy. If the split has no copies, there are only originals.
    """
    first = [
        int(rows[0])
        for label in range(len(classes))
        if len(rows := np.flatnonzero(images.labels == label))
    ][:_MAX_CLASSES]
    originals = images.take(np.array(first))
    if settings.makes_copies:
        # Imported here because torch and torchvision cost seconds, and the default makes no copies.
        from components.data.augmentation.offline import augment

        settings = settings.model_copy(update={"copies": copies, "balance": False})
        augmented = augment(originals, settings, seed)
    else:
        copies = 0
        augmented = originals
    with label_fonts([classes[label] for label in originals.labels]) as labels:
        figure = Figure(figsize=(2.5 + 0.9 * copies, 0.9 * len(first) + 0.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(first), 1 + copies, squeeze=False)
        for row, name in enumerate(labels):
            for column, axis in enumerate(axes[row]):
                index = row if column == 0 else len(first) + row * copies + column - 1
                show_image(axis, augmented.pixels[index])
                axis.set_xticks([])
                axis.set_yticks([])
                if row == 0:
                    axis.set_title("original" if column == 0 else f"copy {column}", fontsize=8)
            axes[row][0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        # By default the metadata names the version of matplotlib, which would change the bytes.
        figure.savefig(path, dpi=100, metadata={"Software": None})
