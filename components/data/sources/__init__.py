"""The table of sources. To add one: a module with a `Source`, a line here, a section in `components.params`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.data.sources.archive import is_archive, unpack
from components.data.sources.base import Source
from components.data.sources.csv_file import CsvFile
from components.data.sources.idx import Idx
from components.data.sources.image_folder import ImageFolder
from components.data.sources.parquet_file import ParquetFile
from components.data.sources.torchvision_set import TorchvisionSet
from components.data.sources.tree import Tree, open_tree
from components.params import CsvSource, IdxSource, ImageFolderSource, Limits, ParquetSource, TorchvisionSource
from components.params import Source as Settings

_READERS: dict[type, Callable[[Any, Limits], Source]] = {
    IdxSource: lambda s, limits: Idx(Path(s.path)),
    ParquetSource: lambda s, limits: ParquetFile(s, limits.max_file_mb),
    TorchvisionSource: lambda s, limits: TorchvisionSet(s),
}
_TREE_READERS: dict[type, Callable[[Any, Tree, Limits], Source]] = {
    ImageFolderSource: lambda s, tree, limits: ImageFolder(tree, limits.max_file_mb),
    CsvSource: lambda s, tree, limits: CsvFile(tree, s, limits.max_file_mb),
}


def load(source: Settings, limits: Limits | None = None, scratch: Path | None = None) -> Source:
    """Lists a source; its images are read later. An archive is unpacked below `scratch`, for as long as the
    source lives.

    Raises:
        UserError: the source is missing, malformed or beyond `limits`.
    """
    limits = limits or Limits()
    if type(source) in _READERS:
        return _READERS[type(source)](source, limits)
    if not is_archive(source.path):
        return _TREE_READERS[type(source)](source, open_tree(source.path), limits)
    folder = tempfile.TemporaryDirectory(dir=scratch)
    refused = unpack(source.path, Path(folder.name), limits)
    found = _TREE_READERS[type(source)](source, open_tree(folder.name), limits)
    found.refused += refused
    found.unpacked = folder
    return found
