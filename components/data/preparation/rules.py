"""Rules for decoding and converting images, and the error of an image that breaks them."""

from __future__ import annotations

from typing import Literal, NamedTuple


class DecoderRules(NamedTuple):
    """Bounds on files, and the form that every image is converted to."""

    image_size: tuple[int, int] | None
    """Height and width of the pixels; None keeps those of the picture."""
    resize: Literal["crop", "pad", "stretch"]
    """Treatment of pictures whose aspect ratio is not that of `image_size`."""
    channels: int | None
    """1 or 3; None keeps grey pictures grey."""
    background: int
    """Grey level behind transparent pixels and around padded pictures."""
    formats: tuple[str, ...]
    """Accepted formats, by Pillow's names."""
    max_pixels: int
    """Most pixels that a file's header may announce."""
    max_seconds: float
    """Time for decoding one file."""
    max_memory: int
    """Memory for decoding one file, in bytes."""
    strict_jpeg: bool
    """Refuse JPEG files that libjpeg warns about."""


class RefusedError(Exception):
    """An image that is not used. Arguments are the reason and the detail."""
