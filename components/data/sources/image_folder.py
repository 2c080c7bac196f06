"""A directory per class, perhaps below directories for the splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from components.data.sources.base import SPLITS, Entries, Entry, Refusal, Source
from components.data.sources.tree import Tree
from components.errors import UserError

_LAYER = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class ImageFolder(Source):
    """Classes are the directories' names. The files of directories within a class belong to it.

    The directories are taken for splits if all of them are called train, val (valid, validation) or test, and train is
    among them.

    Raises:
        UserError: there is no directory, or no file in any.
    """

    def __init__(self, tree: Tree, max_file_mb: int) -> None:
        self.tree, self.limit, self.shareable = tree, max_file_mb << 20, tree.shareable
        files, self.refused, folders = tree.walk()
        top = {folder for folder in folders if "/" not in folder}
        layered = "train" in top and top <= set(_LAYER)
        depth = 2 if layered else 1
        self.entries = Entries()
        for path, size in files:
            parts = path.split("/")
            if len(parts) <= depth:
                self.refused.append(Refusal(path, "no class", "it is in no class's folder"))
                continue
            split = _LAYER[parts[0]] if layered else ""
            self.entries.append(Entry(path, parts[depth - 1], split, size=size))
        if not self.entries:
            raise UserError(
                "preprocess.source: no file in a class's folder; image_folder wants a folder per class, "
                f"or {', '.join(SPLITS)} folders with a folder per class in each"
            )
        named = {folder.split("/")[-1] for folder in folders if folder.count("/") == depth - 1}
        self.empty = sorted(named - {*self.entries.labels.names})

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | np.ndarray | Refusal]:
        return (self.tree.read(entry.id, self.limit) for entry in entries)
