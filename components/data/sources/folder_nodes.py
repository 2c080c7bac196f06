"""Folders that hold images, as nodes of a tree, and names that mean a split."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from components.data.sources.base import SPLITS
from components.data.sources.files.kinds import split_words

# Names of split folders, in lower case and without spaces, hyphens and underscores -> split.
_STEMS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SPLIT_NAMES = {stem + end: split for stem, split in _STEMS.items() for end in ("", "set", "data")}
# Words in names of folders that hold parts of one set of pictures. They tell no class.
_PICTURE_WORDS = split_words(
    "image images img imgs jpegimages photo photos picture pictures pic pics frame frames"
)
_PART_WORDS = _PICTURE_WORDS | split_words(
    "mask masks labels annotation annotations segmentation segmentations segmentationclass "
    "segmentationobject gt groundtruth part parts batch chunk"
)


@dataclass(eq=False)
class Folder:
    """A folder with images in it or below it; `images` counts those directly in it.

    `path` is relative to the source and empty for the source itself.
    """

    path: str
    images: int = 0
    children: dict[str, Folder] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def prefix(self) -> str:
        """Beginning of the paths of all files in the folder: `""` or `"a/b/"`."""
        return f"{self.path}/" if self.path else ""

    def enter_only_children(self) -> Folder:
        """Return the first folder that holds images itself or several folders."""
        folder = self
        while not folder.images and len(folder.children) == 1:
            (folder,) = folder.children.values()
        return folder

    def walk(self) -> Iterator[Folder]:
        """Yield this folder and all folders below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()


def build_folders(image_paths: Iterable[str]) -> Folder:
    """Return the tree of the folders that hold images, children sorted by name."""
    root = Folder("")
    by_path = {"": root}
    for path in image_paths:
        parent = path.rpartition("/")[0]
        folder = by_path.get(parent) or _add_folder(by_path, parent)
        folder.images += 1
    for folder in by_path.values():
        folder.children = dict(sorted(folder.children.items()))
    return root


def _add_folder(by_path: dict[str, Folder], path: str) -> Folder:
    folder = by_path[""]
    for name in path.split("/"):
        if name not in folder.children:
            child = Folder(f"{folder.prefix}{name}")
            folder.children[name] = child
            by_path[child.path] = child
        folder = folder.children[name]
    return folder


def get_split(name: str) -> str | None:
    """Return the split that a folder of this name stands for, or None."""
    return _SPLIT_NAMES.get(re.sub(r"[ _-]", "", name.lower()))


def guess_split(name: str) -> str | None:
    """Return the split that a word of the name means, as in `seg_train`, `trainA`, `TestImages`."""
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return next((_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES), None)


def find_splits(
    names: Iterable[str], to_split: Callable[[str], str | None] = get_split
) -> dict[str, str]:
    """Return the names for which `to_split` gives a split -> split, in the order of SPLITS."""
    splits = {name: split for name in names if (split := to_split(name))}
    return dict(sorted(splits.items(), key=lambda item: SPLITS.index(item[1])))


def are_parts_of_a_set(names: Iterable[str]) -> bool:
    """Return True if folders hold parts of one set of pictures, such as `images` and `masks`.

    Their names differ only in numbers (`images_001`, `images_002`) or in words for parts.
    """
    words = [re.findall(r"[^\W\d_]+", name.lower()) for name in names]
    others = {tuple(word for word in name if word not in _PART_WORDS) for name in words}
    have_part = all(not _PART_WORDS.isdisjoint(name) for name in words)
    have_pictures = any(not _PICTURE_WORDS.isdisjoint(name) for name in words)
    return len(words) > 1 and len(others) == 1 and have_part and have_pictures
