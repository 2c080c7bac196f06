"""Pictures as a model takes them. Imports no torch: Ray tasks that only decode start sooner."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from components.data.preparation.decoding import decode_entries
from components.data.preparation.rules import DecoderRules
from components.data.preparation.survey import Imap, iter_chunks
from components.data.sources.base import ImageEntry, ImageSource, Refusal


class PreparedImage(NamedTuple):
    """The id of an image of a source, and its pixels `uint8 (H, W, C)` or why it has none."""

    id: str
    image: np.ndarray | Refusal


def prepare_images(
    source: ImageSource, shape: tuple[int, int, int], rules: DecoderRules, imap: Imap
) -> Iterator[PreparedImage]:
    """Yield every entry of a source in order, with its pixels or the reason why it has none.

    Args:
        source: The images.
        shape: Height, width and channels that the model takes.
        rules: The rules of `Predictor.make_rules`.
        imap: Runs chunks of images: `local_imap`, or a parallel equivalent.
    """
    image_bytes = math.prod(shape)
    chunks = ((entries,) for _, entries in iter_chunks(source.entries, image_bytes))
    for images in imap(_prepare_chunk, chunks, source, rules, shape):
        yield from images


def _prepare_chunk(
    entries: Sequence[ImageEntry],
    source: ImageSource,
    rules: DecoderRules,
    shape: tuple[int, int, int],
) -> list[PreparedImage]:
    images = []
    for decoded in decode_entries(entries, source, rules):
        match decoded.image:
            case Refusal() as refusal:
                images.append(PreparedImage(decoded.entry.id, refusal))
            case image if image.pixels.shape == shape:
                images.append(PreparedImage(decoded.entry.id, image.pixels))
            case image:
                refusal = _refuse_size(decoded.entry.id, image.size, shape)
                images.append(PreparedImage(decoded.entry.id, refusal))
    return images


def _refuse_size(name: str, size: tuple[int, int], shape: tuple[int, int, int]) -> Refusal:
    detail = (
        f"{size[0]} x {size[1]} pixels (height x width); the model takes {shape[0]} x {shape[1]}, "
        "and no image was resized for its training. With preprocess.image_size, `dvc repro` trains "
        "one that takes all sizes"
    )
    return Refusal(name, "size", detail)
