"""Checks of a folder layout that could be understood in several ways, with what to do about it."""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass

from components.data.sources.base import name_some
from components.data.sources.folder_nodes import (
    Folder,
    are_parts_of_a_set,
    find_splits,
    get_split,
    guess_split,
)
from components.errors import UserError

_MERGE = "preprocess.source.merge_subfolders: true"


@dataclass(frozen=True)
class Place:
    """Location of a source as the user gave it; `tables` are paths of tables in it."""

    location: str
    is_archive: bool = False
    tables: tuple[str, ...] = ()

    def show(self, path: str) -> str:
        """Return a path within the source for a message."""
        location = self.location.rstrip("/")
        if self.is_archive and path:
            return f"{path} in {location}"
        return f"{location}/{path}" if path else location

    def advise(self, path: str) -> str:
        """Return the instruction to use a folder within the source."""
        if self.is_archive:
            return f"unpack the archive and give its folder {path} as preprocess.source.path"
        return f"set preprocess.source.path: {self.show(path)}"

    def advise_table(self, folder: Folder | None = None) -> str:
        """Return the instruction to use a table, best one in the folder, as labels, or nothing."""
        inside = [path for path in self.tables if folder and path.startswith(folder.prefix)]
        for table in [*inside, *self.tables][:1]:
            return f"; if {table} holds the labels, use kind: csv with table: {table}"
        return ""


def explain_no_class_folder(top: Folder, place: Place) -> UserError:
    """Return the error for images that are in no class folder."""
    return UserError(
        f"{place.show(top.path)} holds {top.images:,} images and no folder with images. "
        "image_folder needs a folder per class, or train, val and test folders with a folder per "
        f"class in each; put the images of each class into a folder{place.advise_table()}"
    )


def check_unnamed_splits(top: Folder, place: Place) -> None:
    """Raise `UserError` if most folders are called like splits, such as `train_images`."""
    guesses = find_splits(top.children, guess_split)
    splits = set(guesses.values())
    if "train" in splits and len(splits) > 1 and 2 * len(guesses) >= len(top.children):
        raise UserError(
            f"{place.show(top.path)}: {name_some(guesses)} look like splits, not like classes. "
            "Call split folders train, val and test, each with a folder per class"
            f"{place.advise_table()}. If they are classes, give them other names"
        )


def check_split_folders(top: Folder, splits: dict[str, str], place: Place) -> None:
    """Check the folders that are named like splits, and what lies beside them.

    Args:
        splits: Name of a child of `top` -> split.

    Raises:
        UserError: other folders hold images too, two folders are the same split, there is no
            train, or a split has no class folders.
    """
    where = place.show(top.path)
    _check_folders_beside_splits(top, splits, place)
    for split, number in Counter(splits.values()).items():
        if number > 1:
            names = [name for name in splits if splits[name] == split]
            raise UserError(
                f"{where}: {' and '.join(names)} both mean the split {split}; "
                "merge them, or move one of them out"
            )
    if "train" not in splits.values():
        are = "are splits" if len(splits) > 1 else "is a split"
        raise UserError(
            f"{where} holds {name_some(splits)}, which {are}, and no train. Name the folder "
            "with the training images train; if these are classes, give them other names"
        )
    for name, split in splits.items():
        if not top.children[name].children:
            raise UserError(_explain_flat_split(top.children[name], split, place))


def _explain_flat_split(folder: Folder, split: str, place: Place) -> str:
    start = (
        f"{place.show(folder.path)} is a split and holds {folder.images:,} images but no class "
        "folders, so these have no label. Put the images of each class into a folder in it"
    )
    move = "" if split == "train" else f", or move it out: {split} is then drawn from train"
    return f"{start}{move}{place.advise_table(folder)}"


def _check_folders_beside_splits(top: Folder, splits: dict[str, str], place: Place) -> None:
    beside = [folder for name, folder in top.children.items() if name not in splits]
    if not beside:
        return
    names = name_some(splits)
    plural = len(splits) > 1
    message = (
        f"{place.show(top.path)}: {names} {'are names of splits' if plural else 'names a split'}, "
        f"but {name_some(folder.name for folder in beside)} beside "
        f"{'them' if plural else 'it'} {'hold' if len(beside) > 1 else 'holds'} images too, so "
        f"{'they' if plural else 'it'} could also be {'classes' if plural else 'a class'}. "
    )
    if any(top.children[name].children for name in splits):
        message += (
            f"For {names} as {'splits' if plural else 'a split'}, "
            "move everything else that holds images out"
        )
    else:
        message += (
            f"For classes, give {names} other names, such as {next(iter(splits))}_class; "
            "for splits, put a folder per class into each and move everything else out"
        )
    inner = next((f for f in map(Folder.enter_only_children, beside) if _holds_splits(f)), None)
    if inner:
        message += f"; or {place.advise(inner.path)}, which holds splits of its own"
    raise UserError(message)


def _holds_splits(folder: Folder) -> bool:
    return any(get_split(name) == "train" for name in folder.children)


def check_classes_across_splits(by_split: dict[str, Folder], place: Place) -> None:
    """Raise `UserError` if val or test has a class that train lacks, or writes differently."""
    train = by_split["train"]
    # Reversed: of several folders that differ only in case, the message names the first.
    twins = {_fold(name): child for name, child in reversed(train.children.items())}
    for folder in by_split.values():
        missing = [name for name in folder.children if name not in train.children]
        if not missing:
            continue
        for name in missing:
            if twin := twins.get(_fold(name)):
                raise UserError(_explain_twins(folder.children[name], twin))
        near = difflib.get_close_matches(missing[0], list(train.children), n=1)
        hint = f" (is {missing[0]} the class {near[0]}?)" if near else ""
        raise UserError(
            f"{place.show(folder.path)} has class folders that {place.show(train.path)} lacks: "
            f"{name_some(missing)}{hint}; train has {name_some(train.children)}. A class needs "
            f"training images: add them, or move the {'folders' if missing[1:] else 'folder'} out"
        )


def check_class_names(folder: Folder, place: Place) -> list[str]:
    """Return notes about class folders whose names differ only in case.

    Raises:
        UserError: names look the same and differ in their Unicode form or in spaces around them.
    """
    alike: dict[str, list[Folder]] = defaultdict(list)
    for child in folder.children.values():
        alike[_fold(child.name)].append(child)
    notes = []
    for twins in alike.values():
        forms = Counter(_normalize(twin.name) for twin in twins)
        same, number = forms.most_common(1)[0]
        if number > 1:
            first, second, *_ = [twin for twin in twins if _normalize(twin.name) == same]
            raise UserError(_explain_twins(first, second))
        # Single letters are classes of their own in sets of characters.
        if len(twins) > 1 and len(twins[0].name) > 1:
            names = " and ".join(twin.name for twin in twins)
            notes.append(f"the classes {names} of {place.show(folder.path)} differ only in case")
    return notes


def _normalize(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", _normalize(name).casefold())


def _explain_twins(one: Folder, other: Folder) -> str:
    if _normalize(one.name) != _normalize(other.name):
        return (
            f"the class folders {one.path} and {other.path} differ only in case; "
            "give both the same name"
        )
    forms = f"{one.name!a} and {other.name!a}"
    return (
        f"the class folders {one.path} and {other.path} look the same but are written differently "
        f"({forms}: another Unicode form, or a space at an end); give both the same name"
    )


def _check_parts(folder: Folder, place: Place) -> None:
    """Raise `UserError` if the class folders look like parts of a set: `images` and `masks`."""
    if are_parts_of_a_set(folder.children):
        raise UserError(
            f"{place.show(folder.path)}: {name_some(folder.children)} look like parts of one set "
            "of pictures, not like classes. image_folder needs a folder per class"
            f"{place.advise_table()}. If they are classes, give them other names"
        )


def check_subfolders(top: Folder, place: Place, merge: bool) -> list[str]:
    """Check whether the subfolders of the class folders may be the classes.

    Returns:
        A note if the images of subfolders are counted to the class folder around them.

    Raises:
        UserError: they may be, and `merge` is False; or the class folders are parts of a set.
    """
    branching = []
    for child in top.children.values():
        inner = child.enter_only_children()
        if not inner.images:
            branching.append(inner)
    if not branching:
        _check_parts(top, place)
        return []
    all_branch = len(branching) == len(top.children)
    shared = _find_shared_names(branching)
    if not merge and (not all_branch or len(shared) > 1):
        raise UserError(_question(top, branching, shared if all_branch else [], place))
    if not merge:
        _check_parts(top, place)
    names = name_some(_name_below(top, inner) for inner in branching)
    return [f"images in subfolders belong to the class folder around them: {names}"]


def _find_shared_names(folders: list[Folder]) -> list[str]:
    """Return the names of subfolders that two of the folders, or more, have in common."""
    numbers = Counter(name for folder in folders for name in folder.children)
    return sorted(name for name, number in numbers.items() if number > 1)


def _name_below(top: Folder, inner: Folder) -> str:
    return inner.path[len(top.prefix) :].partition("/")[0]


def _question(top: Folder, branching: list[Folder], shared: list[str], place: Place) -> str:
    """Return the message that names the folders that were probably meant."""
    where = place.show(top.path)
    largest = max(branching, key=lambda folder: len(folder.children))
    outer = _name_below(top, largest)
    if shared:
        outer_names = name_some(_name_below(top, inner) for inner in branching)
        start = f"{where}: the folders {outer_names} hold the same folders: {name_some(shared)}. "
        splits = find_splits(shared)
        if splits:
            inner = next(iter(splits))
            return (
                f"{start}Splits go around the classes: make {inner}/{outer} of {outer}/{inner}, "
                f"and so on. To draw new splits from all of them, set {_MERGE}"
            )
        return (
            f"{start}If the inner folders are the classes, call the outer ones train, val and "
            "test or merge them; if some hold no pictures of the class, such as masks, move these "
            f"out; if the outer folders are the classes, set {_MERGE}"
        )
    others = [name for name in top.children if name != outer]
    return (
        f"{where} would give the classes {name_some([outer, *others])}, but {outer} holds only "
        f"folders: {name_some(largest.children)}. If these are the "
        f"{'splits' if _holds_splits(largest) else 'classes'}, {place.advise(largest.path)}; "
        f"if all of them belong to the class {outer}, set {_MERGE}"
    )
