"""The `image_folder` source: a folder per class, optionally inside a folder per split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from components.data.sources.base import (
    SPLITS,
    ImageEntries,
    ImageEntry,
    ImageSource,
    Refusal,
)
from components.data.sources.tree import FileTree
from components.errors import UserError

# Accepted folder names of splits -> split.
_SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


class FolderImageSource(ImageSource):
    """Images in class folders. Files in subfolders of a class folder belong to that class.

    The top folders are splits if all of them are named train, val (valid, validation) or test, and
    train is among them.

    Raises:
        UserError: no file is in a class folder.
    """

    def __init__(self, tree: FileTree, max_file_mb: int) -> None:
        self.tree = tree
        self.max_file_bytes = max_file_mb << 20
        self.shareable = tree.shareable
        listing = tree.list_files()
        self.refused = listing.refused
        top = {folder for folder in listing.folders if "/" not in folder}
        has_splits = "train" in top and top <= set(_SPLIT_FOLDERS)
        depth = 2 if has_splits else 1
        self.entries = ImageEntries()
        for path, size in listing.files:
            parts = path.split("/")
            if len(parts) <= depth:
                self.refused.append(Refusal(path, "no class", "it is in no class's folder"))
                continue
            split = _SPLIT_FOLDERS[parts[0]] if has_splits else ""
            self.entries.append(ImageEntry(path, parts[depth - 1], split, size=size))
        if not self.entries:
            raise UserError(
                "preprocess.source: no file in a class's folder; "
                "image_folder wants a folder per class, "
                f"or {', '.join(SPLITS)} folders with a folder per class in each"
            )
        class_folders = {
            folder.split("/")[-1] for folder in listing.folders if folder.count("/") == depth - 1
        }
        self.empty_classes = sorted(class_folders - {*self.entries.labels.categories})

    def read(self, entries: Sequence[ImageEntry]) -> Iterator[bytes | np.ndarray | Refusal]:
        return (self.tree.read(entry.id, self.max_file_bytes) for entry in entries)
