"""The table of sources. To add one: a module with `load`, a line here, a section in `components.params`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.data.images import Images
from components.data.sources import idx
from components.params import IdxSource


@dataclass(frozen=True)
class Raw:
    """A source as it is: its official `train` and `test` images and the names of its classes."""

    train: Images
    test: Images
    classes: list[str]


def load(source: IdxSource) -> Raw:
    """Reads a source whole. Raises `UserError` before anything is returned if a file is missing, altered or malformed."""
    return Raw(*idx.load(Path(source.path)))
