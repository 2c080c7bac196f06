"""Shorthands for tests of image sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from components.data.sources import opening
from components.data.sources.base import ImageSource
from components.params import Limits, Source


def open_source(
    kind: str,
    path: Path | str,
    scratch: Path | None = None,
    limits: Limits | None = None,
    **options: Any,
) -> ImageSource:
    """Open a source of the given kind; `options` are its other parameters."""
    settings = TypeAdapter(Source).validate_python({"kind": kind, "path": str(path), **options})
    return opening.open_source(settings, limits, scratch)


def read_all(source: ImageSource) -> dict[str, Any]:
    """Return the content of each entry by its id."""
    contents = source.read(source.entries)
    return {entry.id: content for entry, content in zip(source.entries, contents, strict=True)}
