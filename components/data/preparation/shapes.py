"""The shape that all images must have, and advice on `image_size` if they differ."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from components.errors import UserError

# Largest height or width, in pixels, that images may keep without `image_size`.
_MAX_SIDE = 1024
# Sizes that the advice about `image_size` proposes.
_USUAL_SIZES = (8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224)


def check_shapes(shapes: dict[tuple[int, ...], str]) -> None:
    """Raise `UserError` if there are several shapes, or a shape is too large."""
    if len(shapes) > 1:
        examples = ", ".join(
            f"{name} ({'x'.join(map(str, shape))})" for shape, name in sorted(shapes.items())[:3]
        )
        parameter = "image_size" if len({shape[:2] for shape in shapes}) > 1 else "channels"
        advice = _propose_size(shapes) if parameter == "image_size" else ""
        raise UserError(
            f"images differ in height, width or channels: {examples}; "
            f"set preprocess.{parameter} in params.yaml{advice}"
        )
    for shape, name in shapes.items():
        if max(shape[:2]) > _MAX_SIDE:
            raise UserError(
                f"{name} has {shape[0]} x {shape[1]} pixels (height x width); "
                f"set preprocess.image_size in params.yaml (up to {_MAX_SIDE})"
                f"{_propose_size(shapes)}"
            )


def _propose_size(shapes: Iterable[tuple[int, ...]]) -> str:
    """Return advice: the usual size that is nearest below the median of the shorter sides."""
    median = statistics.median_low(min(shape[:2]) for shape in shapes)
    size = max(usual for usual in _USUAL_SIZES if usual <= max(median, _USUAL_SIZES[0]))
    return (
        f", for example to {size} for squares of {size} x {size} or to [height, width]; "
        "preprocess.resize (crop, pad or stretch) states what happens to other aspect ratios"
    )
