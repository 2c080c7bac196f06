"""torchvision's data sets, by name, with its download."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.data.sources.base import Entries, Entry, Refusal, Source, number_of
from components.errors import UserError
from components.params import TorchvisionSource

# Those that name their splits; the others say `train=True` or `False`.
_BY_SPLIT = {"SVHN", "STL10"}


class TorchvisionSet(Source):
    """Raises:
    UserError: the data is neither there nor can be fetched; names what torchvision says.
    """

    encoded = False
    shareable = False
    complete = True

    def __init__(self, settings: TorchvisionSource) -> None:
        # Only those who use it pay for its import.
        from torchvision import datasets

        kind = getattr(datasets, settings.dataset)
        self.entries, self.refused, self.pixels = Entries(), [], {}
        for split in ("train", "test"):
            which = {"split": split} if settings.dataset in _BY_SPLIT else {"train": split == "train"}
            try:
                Path(settings.path).mkdir(parents=True, exist_ok=True)
                data = kind(settings.path, download=True, **which)
            except (OSError, RuntimeError, EOFError) as error:
                raise UserError(
                    f"torchvision's {settings.dataset} is not whole in {settings.path} and cannot be fetched: {error}"
                ) from None
            self.pixels[split], labels = _arrays(data)
            self.classes = [str(name) for name in getattr(data, "classes", range(int(labels.max()) + 1))]
            self.entries.extend(Entry(f"{split}/{n}", self.classes[label], split) for n, label in enumerate(labels))

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | np.ndarray | Refusal]:
        return (self.pixels[entry.split][number_of(entry)] for entry in entries)


def _arrays(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """`uint8 (N, H, W, C)` and labels of whatever torchvision holds."""
    pixels = np.asarray(data.data)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.shape[1] in (1, 3) and pixels.shape[3] not in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)
    labels = np.asarray(data.targets if hasattr(data, "targets") else data.labels)
    return pixels, (labels[:, 0] if labels.ndim == 2 else labels).astype(np.int64)
