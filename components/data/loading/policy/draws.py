"""Random parameters of the operations of a policy, for one image at a time.

The draws are those of torchvision.transforms.v2, which makes the off-line copies: with the same
state of the generator, an image gets the same parameters.
"""

from __future__ import annotations

import math
from typing import assert_never

import torch

from components.data.loading.policy import colours, geometry
from components.data.loading.policy.affine import invert_affine
from components.data.loading.policy.calls import Call
from components.data.loading.policy.learnt import (
    AUTO_AUGMENT,
    OPERATIONS,
    POLICIES,
    RAND_AUGMENT,
    SIGNED,
    TRIVIAL_AUGMENT,
    Strengths,
    has_strength,
    make_call,
)
from components.params import (
    Affine,
    AutoAugment,
    ColourJitter,
    Crop,
    Erasing,
    HorizontalFlip,
    Operation,
    RandAugment,
    ResizedCrop,
    Rotation,
    Shift,
    TrivialAugment,
    VerticalFlip,
)

Size = tuple[int, int]
Range = tuple[float, float]

_ATTEMPTS = 10
_ERASING_RATIO = (0.3, 3.3)


class Draws:
    """Random numbers of one image, in torchvision's order and precision."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def number(self, low: float, high: float) -> float:
        """Return a number from a range."""
        return torch.empty(1).uniform_(low, high, generator=self.generator).item()

    def integer(self, stop: int) -> int:
        """Return an integer from 0 to `stop - 1`."""
        return int(torch.randint(stop, (1,), generator=self.generator))

    def permutation(self, length: int) -> list[int]:
        """Return the integers from 0 to `length - 1` in random order."""
        order: list[int] = torch.randperm(length, generator=self.generator).tolist()
        return order

    def rectangle(self, area: float, scale: Range, ratio: Range) -> tuple[int, int]:
        """Return the sides of a rectangle, the first `sqrt(ratio)` times that of a square."""
        target = area * self.number(*scale)
        low, high = torch.log(torch.tensor(ratio)).tolist()
        aspect = torch.exp(torch.tensor(self.number(low, high))).item()
        return round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))


def draw_calls(operation: Operation, draws: Draws, size: Size, target: Size) -> list[Call]:
    """Draw an operation for one image; return the calls that it consists of, often none.

    Args:
        operation: the operation.
        draws: random numbers of the image.
        size: height and width of the image.
        target: height and width of the result of a resized crop. All others keep the size.
    """
    match operation:
        case HorizontalFlip(p=p):
            return [Call(geometry.flip_horizontally)] if draws.number(0, 1) < p else []
        case VerticalFlip(p=p):
            return [Call(geometry.flip_vertically)] if draws.number(0, 1) < p else []
        case Crop(padding=padding):
            top, left = (draws.integer(2 * padding + 1) - padding for _ in range(2))
            return [Call(geometry.crop_padded, (top, left))]
        case ResizedCrop(scale=scale, ratio=ratio):
            box = _draw_box(draws, size, scale, ratio)
            return [Call(geometry.crop_resized, (*box, *target))]
        case Shift(fraction=fraction):
            draws.number(0, 0)  # the angle
            top, left = _draw_translation(draws, fraction, size)
            return [Call(geometry.crop_padded, (-top, -left))]
        case Affine():
            return [Call(geometry.transform_bilinear, _draw_affine(operation, draws, size))]
        case Rotation(degrees=degrees):
            matrix = invert_affine(degrees=-draws.number(-degrees, degrees))
            return [Call(geometry.transform_bilinear, matrix)]
        case ColourJitter():
            return _draw_colour_jitter(operation, draws)
        case Erasing(p=p, scale=scale):
            return _draw_erasing(draws, size, scale) if draws.number(0, 1) < p else []
        case RandAugment(operations=operations, magnitude=magnitude):
            calls = [_draw_learnt(draws, size, RAND_AUGMENT, magnitude) for _ in range(operations)]
            return [call for group in calls for call in group]
        case TrivialAugment():
            return _draw_learnt(draws, size, TRIVIAL_AUGMENT, None)
        case AutoAugment():
            return _draw_auto_augment(operation, draws, size)
        case _:
            assert_never(operation)


def _draw_box(draws: Draws, size: Size, scale: Range, ratio: Range) -> tuple[int, int, int, int]:
    """Return top, left, height and width; in the middle if ten rectangles were too large."""
    height, width = size
    for _ in range(_ATTEMPTS):
        w, h = draws.rectangle(height * width, scale, ratio)
        if 0 < w <= width and 0 < h <= height:
            return draws.integer(height - h + 1), draws.integer(width - w + 1), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def _draw_translation(draws: Draws, fraction: float, size: Size) -> tuple[int, int]:
    """Return whole pixels downwards and to the right."""
    right, down = (
        round(draws.number(-fraction * side, fraction * side)) for side in (size[1], size[0])
    )
    return down, right


def _draw_affine(operation: Affine, draws: Draws, size: Size) -> tuple[float, ...]:
    degrees = draws.number(-operation.degrees, operation.degrees)
    down, right = _draw_translation(draws, operation.translate, size)
    return invert_affine(
        degrees=degrees,
        translation=(right, down),
        scale=draws.number(*operation.scale),
        shear=(draws.number(-operation.shear, operation.shear), 0.0),
    )


def _draw_colour_jitter(operation: ColourJitter, draws: Draws) -> list[Call]:
    order = draws.permutation(4)
    calls: list[Call | None] = []
    for adjust, change in (
        (colours.adjust_brightness, operation.brightness),
        (colours.adjust_contrast, operation.contrast),
        (colours.adjust_saturation, operation.saturation),
    ):
        calls.append(Call(adjust, (draws.number(1 - change, 1 + change),)) if change else None)
    hue = operation.hue
    calls.append(Call(colours.adjust_hue, (draws.number(-hue, hue),)) if hue else None)
    ordered = [calls[index] for index in order]
    return [call for call in ordered if call is not None]


def _draw_erasing(draws: Draws, size: Size, scale: Range) -> list[Call]:
    height, width = size
    for _ in range(_ATTEMPTS):
        h, w = draws.rectangle(height * width, scale, _ERASING_RATIO)
        if h < height and w < width:
            corner = draws.integer(height - h + 1), draws.integer(width - w + 1)
            return [Call(geometry.erase, (*corner, h, w))]
    return []


def _draw_learnt(draws: Draws, size: Size, strengths: Strengths, level: int | None) -> list[Call]:
    """Draw one of `OPERATIONS`, and its level where none is given."""
    name = OPERATIONS[draws.integer(len(OPERATIONS))]
    if name == "Identity":
        return []
    if level is None:
        level = draws.integer(strengths.levels) if has_strength(name) else 0
    return [make_call(name, level, _draw_sign(draws, name), strengths, size)]


def _draw_sign(draws: Draws, name: str) -> int:
    return -1 if name in SIGNED and draws.number(0, 1) <= 0.5 else 1


def _draw_auto_augment(operation: AutoAugment, draws: Draws, size: Size) -> list[Call]:
    pairs = POLICIES[operation.policy]
    calls = []
    for step in pairs[draws.integer(len(pairs))]:
        if draws.number(0, 1) <= step.p:
            sign = _draw_sign(draws, step.name)
            calls.append(make_call(step.name, step.level, sign, AUTO_AUGMENT, size))
    return calls
