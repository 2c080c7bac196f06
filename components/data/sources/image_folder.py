"""The `image_folder` source: a folder per class, optionally inside a folder per split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from components.data.sources.base import (
    ImageEntries,
    ImageEntry,
    ImageSource,
    Refusal,
    name_some,
)
from components.data.sources.files.archive import is_archive
from components.data.sources.files.kinds import (
    count_ignored,
    describe_ignored,
    get_extension,
    has_image_name,
    is_image_head,
    is_undecided,
)
from components.data.sources.files.location import SOURCE_KEY
from components.data.sources.files.tree import FileInfo, FileTree
from components.data.sources.layout import Layout, find_layout
from components.data.sources.layout_checks import Place
from components.errors import UserError
from components.params import ImageFolderSource

_TABLE_EXTENSIONS = {"csv", "tsv", "xlsx", "jsonl"}


class SortedFiles(NamedTuple):
    """Files of a tree. `ignored` also has folders, whose paths end with `/`."""

    images: list[FileInfo]
    refused: list[Refusal]
    ignored: list[str]


class FolderImageSource(ImageSource):
    """Images in class folders. Files in subfolders of a class folder belong to that class.

    Raises:
        UserError: there are no images, no class folders, or several ways to understand the folders.
    """

    def __init__(self, tree: FileTree, settings: ImageFolderSource, max_file_mb: int) -> None:
        self.tree = tree
        self.max_file_bytes = max_file_mb << 20
        self.shareable = tree.shareable
        files = sort_files(tree, settings.path)
        self.ignored = count_ignored(files.ignored)
        if not files.images:
            raise UserError(self._explain_no_images(settings.path, files))
        layout = _find_layout(files, settings)
        self.entries = ImageEntries()
        strays = []
        for path, size in files.images:
            position = layout.locate(path)
            if position is None:
                strays.append(Refusal(path, "no class", "it is in no class's folder"))
                continue
            label, split = position
            self.entries.append(ImageEntry(path, label, split, size=size))
        located = [layout.locate(refusal.path) for refusal in files.refused]
        refused_labels = {position[0] for position in located if position}
        self.empty_classes = sorted(refused_labels - {*self.entries.labels.categories})
        self.notes = layout.notes + _note_links(files.refused, layout)
        self.refused = files.refused + strays

    def _explain_no_images(self, location: str, files: SortedFiles) -> str:
        """Return the message for a source without images, with what it holds instead."""
        message = f"preprocess.source.path: {location} holds no images"
        if self.ignored:
            message += f"; it holds {describe_ignored(self.ignored)}"
        if files.refused:
            first = files.refused[0]
            message += f"; {len(files.refused):,} files are refused: {first.path} ({first.detail})"
            if first.reason == "link":
                return (
                    f"{message}. Links are followed only to files within the folder; "
                    "copy what they lead to in their place (cp -rL)"
                )
        archives = [path for path in files.ignored if is_archive(path)]
        if archives and is_archive(location):
            message += f". Unpack {location}, and give its {archives[0]}"
        elif any(get_extension(path) == "parquet" for path in files.ignored):
            message += ". For Parquet files give kind: parquet"
        elif len(archives) > 1:
            message += ". Unpack the archives there, each into a folder of its name"
        elif archives:
            message += f". Give the archive: {location.rstrip('/')}/{archives[0]}"
        else:
            message += ". Give the folder that holds a folder of images for each class"
        return message

    def read(self, entries: Sequence[ImageEntry]) -> Iterator[bytes | np.ndarray | Refusal]:
        return (self.tree.read(entry.id, self.max_file_bytes) for entry in entries)


def sort_files(tree: FileTree, location: str, key: str = SOURCE_KEY) -> SortedFiles:
    """List a tree, and separate its images from the files that are ignored.

    Raises:
        UserError: a folder cannot be read.
    """
    listing = tree.list_files()
    unreadable = [
        refusal
        for refusal in listing.refused
        if refusal.reason == "unreadable" or refusal.path.endswith("/")
    ]
    if unreadable:
        raise UserError(
            f"{key}: {location} has folders that cannot be read: "
            f"{name_some(refusal.path or location for refusal in unreadable)} "
            f"({unreadable[0].detail}); change their names or permissions, or move them out"
        )
    undecided = [path for path, _ in listing.files if is_undecided(path)]
    heads = dict(zip(undecided, tree.read_heads(undecided), strict=True))
    images = []
    ignored = list(listing.skipped)
    for file in listing.files:
        if has_image_name(file.path) or is_image_head(heads.get(file.path, b"")):
            images.append(file)
        else:
            ignored.append(file.path)
    refused = []
    for refusal in listing.refused:
        if has_image_name(refusal.path) or is_undecided(refusal.path):
            refused.append(refusal)
        else:
            ignored.append(refusal.path)
    used = [file.path for file in images] + [refusal.path for refusal in refused]
    return SortedFiles(images, refused, ignored + _find_empty_folders(listing.folders, used))


def _find_empty_folders(folders: Sequence[str], used: Sequence[str]) -> list[str]:
    """Return the folders without images, each with a final `/`, but not the folders in them."""
    with_images = {""}
    for path in used:
        parent = path.rpartition("/")[0]
        while parent not in with_images:
            with_images.add(parent)
            parent = parent.rpartition("/")[0]
    return [
        f"{folder}/"
        for folder in folders
        if folder not in with_images and folder.rpartition("/")[0] in with_images
    ]


def _find_layout(files: SortedFiles, settings: ImageFolderSource) -> Layout:
    paths = [image.path for image in files.images]
    paths += [refusal.path for refusal in files.refused]
    tables = sorted(path for path in files.ignored if get_extension(path) in _TABLE_EXTENSIONS)
    place = Place(settings.path, is_archive(settings.path), tuple(tables))
    return find_layout(paths, place, settings.merge_subfolders)


def _note_links(refused: Sequence[Refusal], layout: Layout) -> list[str]:
    """Return a note about links that lie beside the class folders, and may be meant as such."""
    roots = {prefix.rstrip("/") for prefix in layout.roots}
    links = [
        refusal.path
        for refusal in refused
        if refusal.reason == "link"
        and refusal.path.rpartition("/")[0] in roots
        and not has_image_name(refusal.path)
    ]
    return [f"links to folders are not followed: {name_some(links)}"] if links else []
