"""The `torchvision` source: a data set of torchvision by name, downloaded if necessary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.data.sources.base import (
    ImageEntries,
    ImageEntry,
    ImageSource,
    Refusal,
    parse_row_number,
)
from components.errors import UserError
from components.params import TorchvisionSource

if TYPE_CHECKING:
    from torchvision.datasets import VisionDataset

# Data sets that take `split="train"`. The others take `train=True`.
_WITH_SPLIT_ARGUMENT = {"SVHN", "STL10"}


class TorchvisionImageSource(ImageSource):
    """The training and test images of one of torchvision's data sets.

    Raises:
        UserError: the data is incomplete and cannot be downloaded; quotes torchvision's message.
    """

    encoded = False
    shareable = False
    fixed_classes = True

    def __init__(self, settings: TorchvisionSource) -> None:
        # torchvision is slow to import, so only this source imports it.
        from torchvision import datasets

        dataset_class = getattr(datasets, settings.dataset)
        self.entries = ImageEntries()
        self.refused = []
        self.pixels: dict[str, np.ndarray] = {}
        for split in ("train", "test"):
            if settings.dataset in _WITH_SPLIT_ARGUMENT:
                arguments: dict[str, str | bool] = {"split": split}
            else:
                arguments = {"train": split == "train"}
            try:
                Path(settings.path).mkdir(parents=True, exist_ok=True)
                dataset = dataset_class(settings.path, download=True, **arguments)
            except (OSError, RuntimeError, EOFError) as error:
                raise UserError(
                    f"torchvision's {settings.dataset} is not whole in {settings.path} "
                    f"and cannot be fetched: {error}"
                ) from None
            self.pixels[split], labels = _to_arrays(dataset)
            class_names = getattr(dataset, "classes", range(int(labels.max()) + 1))
            self.classes = [str(name) for name in class_names]
            self.entries.extend(
                ImageEntry(f"{split}/{n}", self.classes[label], split)
                for n, label in enumerate(labels)
            )

    def read(self, entries: Sequence[ImageEntry]) -> Iterator[bytes | np.ndarray | Refusal]:
        return (self.pixels[entry.split][parse_row_number(entry)] for entry in entries)


def _to_arrays(dataset: VisionDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels, `uint8 (N, H, W, C)`, and labels, `int64 (N,)`, of a data set.

    Data sets differ in layout: some are (N, H, W), some (N, C, H, W); labels are `targets` or
    `labels`, and may be (N, 2), with the class in the first column.
    """
    pixels = np.asarray(dataset.data)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.shape[1] in (1, 3) and pixels.shape[3] not in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)
    labels = np.asarray(dataset.targets if hasattr(dataset, "targets") else dataset.labels)
    return pixels, (labels[:, 0] if labels.ndim == 2 else labels).astype(np.int64)
