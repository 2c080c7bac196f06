"""Description of one split on disk: its manifest and its shards."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field

from components.records.base import Record


class Shard(Record):
    """One Parquet file of a split; `sha256` is the digest of its bytes."""

    file: str
    rows: int
    sha256: str


class Channels(Record):
    """Mean and standard deviation of each channel of the training split, on the scale 0 to 255."""

    mean: list[float]
    std: list[float]


class Preparation(Record):
    """The way from a decoded picture to the pixels of a split, besides the split's shape.

    `rules` is `PIXEL_RULES` (`components.data.preparation.description`) of the code that prepared
    the images. `resize` is None if every picture kept its size. `background` is the grey level
    behind transparent pixels and around padded pictures. No field has a default, so that a later
    default cannot change the meaning of a stored description.
    """

    rules: int
    resize: Literal["crop", "pad", "stretch"] | None
    background: int


class Manifest(Record):
    """Contents of one split on disk.

    Images are `uint8 (N, H, W, C)` and `shape` is `(H, W, C)`. `class_counts` has the number of
    images of each class, in the order of `classes`. `origin` maps the name of each input to its
    SHA-256. Only training splits have `channels` and `preparation`.
    """

    format: int = 1
    split: str
    origin: dict[str, str]
    shape: tuple[int, int, int]
    rows: int
    classes: list[str]
    class_counts: list[int]
    channels: Channels | None = None
    # Left out if None, so that manifests without it keep their digests.
    preparation: Preparation | None = Field(default=None, exclude_if=lambda value: value is None)
    shards: list[Shard]

    @property
    def sha256(self) -> str:
        """Digest of the whole split: the manifest contains the digests of the shards."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
