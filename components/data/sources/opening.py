"""Kinds of image sources, and the function that opens the configured one.

A new kind needs a module with an `ImageSource`, a `case` here and a section in `components.params`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from components.data.sources.base import ImageSource
from components.data.sources.files.archive import is_archive, unpack
from components.data.sources.files.location import check_file, open_tree
from components.data.sources.idx import IdxImageSource
from components.data.sources.image_folder import FolderImageSource
from components.data.sources.parquet_file import ParquetImageSource
from components.data.sources.tables.source import CsvImageSource
from components.data.sources.torchvision_set import TorchvisionImageSource
from components.params import (
    CsvSource,
    IdxSource,
    ImageFolderSource,
    Limits,
    ParquetSource,
    Source,
    TorchvisionSource,
)


def open_source(
    settings: Source, limits: Limits | None = None, scratch: Path | None = None
) -> ImageSource:
    """List the images of a source; their content is read later.

    Args:
        limits: Bounds on files and archives; the defaults if None.
        scratch: Folder below which an archive is unpacked. The files are deleted with the source.

    Raises:
        UserError: the source is missing, malformed or beyond `limits`.
    """
    limits = limits or Limits()
    match settings:
        case IdxSource():
            return IdxImageSource(Path(settings.path))
        case ParquetSource():
            return ParquetImageSource(settings, limits.max_file_mb)
        case TorchvisionSource():
            return TorchvisionImageSource(settings)
        case ImageFolderSource() | CsvSource():
            return _open_files(settings, limits, scratch)


def _open_files(
    settings: ImageFolderSource | CsvSource, limits: Limits, scratch: Path | None
) -> ImageSource:
    """Open a source of single files, in a folder or in an archive."""
    if not is_archive(settings.path):
        return _open_folder(settings, settings.path, limits)
    check_file(settings.path)
    folder = tempfile.TemporaryDirectory(dir=scratch)
    refused = unpack(settings.path, Path(folder.name), limits)
    source = _open_folder(settings, folder.name, limits)
    source.refused += refused
    source.archive_folder = folder
    return source


def _open_folder(
    settings: ImageFolderSource | CsvSource, location: str, limits: Limits
) -> ImageSource:
    tree = open_tree(location)
    match settings:
        case ImageFolderSource():
            return FolderImageSource(tree, settings, limits.max_file_mb)
        case CsvSource():
            return CsvImageSource(tree, settings, limits.max_file_mb)
