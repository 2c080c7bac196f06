"""Images without labels, for predictions: a file, a folder, an archive, a table, Parquet files.

Images are in the order of their paths, as in the sources with labels. The batches of a prediction
are then those of the evaluation of the same files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from components.data.sources.base import (
    ImageEntries,
    ImageEntry,
    ImageSource,
    Refusal,
    is_printable,
)
from components.data.sources.files.archive import is_archive, unpack
from components.data.sources.files.kinds import count_ignored, describe_ignored, get_extension
from components.data.sources.files.location import (
    check_file,
    explain_missing,
    get_local_path,
    open_tree,
)
from components.data.sources.files.tree import FileInfo, FileTree, LocalTree
from components.data.sources.image_folder import sort_files
from components.data.sources.parquet_file import ParquetImageSource
from components.data.sources.tables.checks import describe_columns, find_column
from components.data.sources.tables.file import EXTENSIONS as TABLE_EXTENSIONS
from components.data.sources.tables.file import read_table
from components.data.sources.tables.paths import NOT_FOUND, FileIndex, normalize_paths, resolve
from components.errors import UserError
from components.params import CsvSource, Limits, ParquetSource
from components.printable import escape_unprintable

# The argument of `predict` with which messages begin.
_KEY = "SOURCE"


class Columns(NamedTuple):
    """Columns to read: of a table with paths of images, and of a Parquet file with images."""

    path: str = "path"
    image: str = "image"


class UnlabelledImageSource(ImageSource):
    """Files of a tree, given with the reasons for which others are not read."""

    def __init__(
        self, tree: FileTree, files: Iterable[FileInfo], refused: list[Refusal], max_file_mb: int
    ) -> None:
        self.tree = tree
        self.max_file_bytes = max_file_mb << 20
        self.shareable = tree.shareable
        self.entries = ImageEntries(ImageEntry(path, "", size=size) for path, size in files)
        self.refused = refused

    def read(self, entries: Sequence[ImageEntry]) -> Iterator[bytes | np.ndarray | Refusal]:
        return (self.tree.read(entry.id, self.max_file_bytes) for entry in entries)


def open_unlabelled(
    location: str, limits: Limits, scratch: Path, columns: Columns | None = None
) -> ImageSource:
    """List the images at a path or an fsspec URL; their content is read later.

    Args:
        location: A folder (with all folders in it), a tar or zip archive of one, an image, a table
            of paths beside the images, a Parquet file, or a folder of Parquet files.
        limits: Bounds on files and archives.
        scratch: Folder below which an archive is unpacked. The files are deleted with the source.
        columns: Columns to read; the defaults if None.

    Raises:
        UserError: there is nothing, or nothing with images in it.
    """
    columns = columns or Columns()
    if is_archive(location):
        return _open_archive(location, limits, scratch)
    if not _is_file(location):
        return _open_folder(location, limits, columns)
    extension = get_extension(location.lower().removesuffix(".gz"))
    if extension == "parquet":
        return _open_parquet(location, limits, columns)
    parent, _, name = location.rpartition("/")
    if extension in TABLE_EXTENSIONS:
        return _open_table(parent or ".", name, limits, columns)
    return _open_image(location, parent, name, limits)


def _is_file(location: str) -> bool:
    """Return True for a file, False for a folder of this machine or anything else of elsewhere.

    Raises:
        UserError: there is nothing at a path of this machine.
    """
    path = get_local_path(location)
    if path is None:
        import fsspec

        try:
            fs, root = fsspec.core.url_to_fs(location)
            return bool(fs.isfile(root))
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{_KEY}: {location} cannot be read: {error}") from None
    if not path.exists():
        raise UserError(explain_missing(location, path, "file or folder", _KEY))
    return not path.is_dir()


def _open_image(location: str, parent: str, name: str, limits: Limits) -> ImageSource:
    path = get_local_path(location)
    # A link is resolved here, because trees follow no link that leads out of them.
    real = None if path is None else path.resolve()
    tree = open_tree(parent, _KEY) if real is None else LocalTree(real.parent)
    file = FileInfo(name if real is None else real.name, 0)
    if not is_printable(file.path):
        raise UserError(f"{_KEY}: {location!a}: the name is not printable text; rename it")
    return UnlabelledImageSource(tree, [file], [], limits.max_file_mb)


def _open_archive(location: str, limits: Limits, scratch: Path) -> ImageSource:
    check_file(location, _KEY)
    folder = tempfile.TemporaryDirectory(dir=scratch)
    refused = unpack(location, Path(folder.name), limits)
    source = _list_images(LocalTree(Path(folder.name)), location, limits)
    source.refused += refused
    source.archive_folder = folder
    _check_any_is_listed(source, location)
    return source


def _open_folder(location: str, limits: Limits, columns: Columns) -> ImageSource:
    source = _list_images(open_tree(location, _KEY), location, limits)
    kinds = [kind.name for kind in source.ignored]
    if not source.num_listed and ".parquet" in kinds:
        return _open_parquet(location, limits, columns)
    _check_any_is_listed(source, location)
    return source


def _list_images(tree: FileTree, location: str, limits: Limits) -> ImageSource:
    files = sort_files(tree, location, _KEY)
    source = UnlabelledImageSource(tree, files.images, files.refused, limits.max_file_mb)
    source.ignored = count_ignored(files.ignored)
    return source


def _check_any_is_listed(source: ImageSource, location: str) -> None:
    if not source.num_listed:
        ignored = describe_ignored(source.ignored)
        content = f"; it holds {ignored}" if ignored else "; it is empty"
        raise UserError(f"{_KEY}: {location} holds no images{content}")


def _open_parquet(location: str, limits: Limits, columns: Columns) -> ImageSource:
    settings = ParquetSource(kind="parquet", path=location, image_column=columns.image)
    source = ParquetImageSource(settings, limits.max_file_mb, labelled=False)
    _check_any_is_listed(source, location)
    return source


def _open_table(folder: str, name: str, limits: Limits, columns: Columns) -> ImageSource:
    """Open the images whose paths, relative to the table's folder, are in a column of a table.

    Each path counts once.

    Raises:
        UserError: the table is not one, lacks the column, or several files fit a path.
    """
    location = f"{folder}/{name}"
    # By `auto`, the header of the table needs no column of labels.
    settings = CsvSource(
        kind="csv", path=folder, table=name, path_column=columns.path, label_columns="auto"
    )
    tree = open_tree(folder, _KEY)
    files = FileIndex.from_files(tree.list_files().files)
    paths = normalize_paths(_select_paths(read_table(tree, settings, location), columns, location))
    resolution = resolve(paths, files, None, None)
    found = sorted({int(position) for position in resolution.files if position != NOT_FOUND})
    images = [FileInfo(files.paths[n].as_py(), int(files.sizes[n])) for n in found]
    missing = {resolution.tried[int(n)].as_py() for n in np.flatnonzero(resolution.files < 0)}
    detail = f"the folder of {name} has no such file"
    refused = [Refusal(escape_unprintable(path), "missing", detail) for path in sorted(missing)]
    return UnlabelledImageSource(tree, sorted(images), refused, limits.max_file_mb)


def _select_paths(table: pd.DataFrame, columns: Columns, location: str) -> pd.Series:
    """Return the cells of the column of paths that are not empty."""
    names = [str(name) for name in table.columns]
    wanted = columns.path.strip()
    matches = find_column(names, wanted)
    if len(matches) != 1:
        number = "several columns" if matches else "no column"
        raise UserError(
            f"{_KEY}: {location} has {number} called {wanted!r}; its columns: "
            f"{describe_columns(names)}. "
            "--path-column names the one with the paths of the images"
        )
    cells: pd.Series = table.iloc[:, matches[0]].str.strip()
    cells = cells[cells != ""]
    if cells.empty:
        raise UserError(f"{_KEY}: {location} has no paths in the column {wanted!r}")
    return cells
