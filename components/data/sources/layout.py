"""Recognition of the class folders and split folders of a source."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from components.data.sources.folder_nodes import (
    Folder,
    build_folders,
    find_splits,
    get_split,
)
from components.data.sources.layout_checks import (
    Place,
    check_class_names,
    check_classes_across_splits,
    check_split_folders,
    check_subfolders,
    check_unnamed_splits,
    explain_no_class_folder,
)


class Layout(NamedTuple):
    """Position of the class folders of a source.

    `roots` maps the beginning of the paths in each folder that holds class folders (`""` or
    `"train/"`) to its split; the split is empty where the source does not assign one.
    """

    roots: dict[str, str]
    notes: list[str]

    def locate(self, path: str) -> tuple[str, str] | None:
        """Return class and split of a file, or None if it is in no class folder."""
        for prefix, split in self.roots.items():
            if path.startswith(prefix):
                label, separator, _ = path[len(prefix) :].partition("/")
                return (label, split) if separator else None
        return None


def find_layout(image_paths: Iterable[str], place: Place, merge_subfolders: bool) -> Layout:
    """Recognise the layout of a source from the paths of its images, at least one.

    Args:
        place: Location of the source, for the messages.
        merge_subfolders: Accept that subfolders of the class folders may be classes themselves.

    Raises:
        UserError: there is no class folder, or the folders can be understood in several ways.
    """
    top = _enter_wrapping_folders(build_folders(image_paths))
    if not top.children:
        raise explain_no_class_folder(top, place)
    notes = []
    if top.path:
        notes.append(f"the classes are in {place.show(top.path)}, the only folder with images")
    splits = find_splits(top.children)
    if not splits:
        check_unnamed_splits(top, place)
        notes += check_class_names(top, place)
        notes += check_subfolders(top, place, merge_subfolders)
        return Layout({top.prefix: ""}, notes)
    check_split_folders(top, splits, place)
    by_split = {splits[name]: _enter_repeated_split(top.children[name]) for name in splits}
    check_classes_across_splits(by_split, place)
    for folder in by_split.values():
        notes += check_class_names(folder, place)
    for folder in by_split.values():
        notes += check_subfolders(folder, place, merge_subfolders)
    roots = {folder.prefix: split for split, folder in by_split.items()}
    return Layout(roots, list(dict.fromkeys(notes)))


def _enter_wrapping_folders(root: Folder) -> Folder:
    """Return the folder that holds the class folders or the split folders.

    It is the root, unless the root holds one folder that holds only folders, as many archives do.
    """
    folder = root
    while len(folder.children) == 1:
        (child,) = folder.children.values()
        if child.images or get_split(child.name):
            break
        folder = child
    return folder


def _enter_repeated_split(folder: Folder) -> Folder:
    """Return the inner folder of `train/train/`, which some archives of splits contain."""
    while not folder.images and len(folder.children) == 1:
        (child,) = folder.children.values()
        if child.images or get_split(child.name) != get_split(folder.name):
            break
        folder = child
    return folder
