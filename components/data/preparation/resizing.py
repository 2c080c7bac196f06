"""Effect of resizing on the aspect ratios of the pictures: a summary and a warning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from components.data.preparation.selection import Selection
from components.data.preparation.survey import Survey
from components.data.sources.base import NO_SPLIT
from components.params import Preprocess

# Shares above which a warning is given: mean over all images, and share of one image.
_MAX_MEAN = 0.25
_MAX_SINGLE = 0.60
# Multiple and bounds of a proposed height and width, in pixels.
_SIDE_STEP = 8
_MIN_SIDE = 8
_MAX_SIDE = 1024

# Sentences about all images and about single images; advice.
_WORDS = {
    "crop": (
        "crop cuts {} of a picture's area",
        "Images that lose more than",
        "`preprocess.resize: pad` keeps whole pictures",
    ),
    "pad": (
        "pad fills {} of an image with the background",
        "Images that are background by more than",
        "a larger `preprocess.image_size` keeps more detail",
    ),
    "stretch": (
        "stretch changes the aspect ratio of a picture by {}",
        "Images changed by more than",
        "`preprocess.resize: pad` keeps the shapes of things",
    ),
}


@dataclass(frozen=True)
class ResizingSummary:
    """Effect of resizing on all used images, as sentences."""

    text: str
    warnings: list[str]


def compute_mismatch(
    heights: np.ndarray, widths: np.ndarray, target: tuple[int, int]
) -> np.ndarray:
    """Return how much aspect ratios differ from that of the target, `float64 (N,)`, 0 to 1.

    It is 1 - a / b, where a is the smaller and b the larger of the two aspect ratios. `crop` cuts
    this share of a picture's area. `pad` fills this share of the result with the background, up to
    the rounding of sides to pixels. `stretch` scales one side by the factor 1 - share relative to
    the other.

    Args:
        heights: heights of the pictures, `(N,)`.
        widths: widths of the pictures, `(N,)`.
        target: height and width of the result.
    """
    across = widths.astype(np.float64) * target[0]
    along = heights.astype(np.float64) * target[1]
    mismatch: np.ndarray = 1 - np.minimum(across, along) / np.maximum(across, along)
    return mismatch


def summarize_resizing(
    survey: Survey, selection: Selection, settings: Preprocess
) -> ResizingSummary:
    """Return how much `crop` cuts, `pad` fills or `stretch` distorts of the used images."""
    target = settings.target_size
    if target is None:
        return ResizingSummary("No image is resized (preprocess.image_size: null).", [])
    used = np.flatnonzero(selection.splits != NO_SPLIT)
    heights = survey.facts["height"][used]
    widths = survey.facts["width"][used]
    shares = compute_mismatch(heights, widths, target)
    worst = int(shares.argmax())
    if not shares[worst]:
        return ResizingSummary("All pictures have the aspect ratio of preprocess.image_size.", [])
    effect, extreme_images, advice = _WORDS[settings.resize]
    mean = float(shares.mean())
    text = (
        f"{effect.format(f'{mean:.1%}')} on average, at most {shares[worst]:.1%} "
        f"({survey.get_entry(int(used[worst])).id}, height {heights[worst]}, width {widths[worst]})"
    )
    extreme = int((shares > _MAX_SINGLE).sum())
    if mean <= _MAX_MEAN and not extreme:
        return ResizingSummary(text, [])
    counts = f"{extreme_images} {_MAX_SINGLE:.0%}: {extreme:,} of {len(used):,}"
    if mean > _MAX_MEAN and (better := _find_better_target(heights, widths, target, mean)):
        advice += f", and `preprocess.image_size: {[*better]}` is nearer to most pictures"
    return ResizingSummary(text, [f"{text}. {counts}; {advice}"])


def _find_better_target(
    heights: np.ndarray, widths: np.ndarray, target: tuple[int, int], mean: float
) -> tuple[int, int] | None:
    """Return the pictures' median aspect ratio as a size of about the target's area.

    None if it does not halve the mean mismatch `mean`, as when pictures are both upright and wide.
    """
    ratio = float(np.median(heights / widths))
    area = math.prod(target)
    proposal = (_round_side(math.sqrt(area * ratio)), _round_side(math.sqrt(area / ratio)))
    after = compute_mismatch(heights, widths, proposal).mean()
    return proposal if after < mean / 2 else None


def _round_side(length: float) -> int:
    side = _SIDE_STEP * round(length / _SIDE_STEP)
    return min(max(side, _MIN_SIDE), _MAX_SIDE)
