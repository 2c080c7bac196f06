"""Operations of RandAugment, TrivialAugment and AutoAugment, and AutoAugment's policies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from components.data.loading.policy import colours, geometry
from components.data.loading.policy.affine import invert_affine
from components.data.loading.policy.calls import Call, PixelOperation


@dataclass(frozen=True)
class Strengths:
    """Largest strengths of the operations, on a scale of `levels` levels.

    Attributes:
        shear: tangent of the angle.
        translation: fraction of the side; `None` is 32 colours.
        rotation: degrees.
        factor: distance of the factors of brightness, contrast, saturation and sharpness from 1.
        bits: bits that are dropped.
    """

    levels: int
    shear: float = 0.3
    translation: float | None = 150 / 331
    rotation: float = 30.0
    factor: float = 0.9
    bits: int = 4


RAND_AUGMENT = Strengths(levels=31)
AUTO_AUGMENT = Strengths(levels=10)
TRIVIAL_AUGMENT = Strengths(
    levels=31, shear=0.99, translation=None, rotation=135.0, factor=0.99, bits=6
)

OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""Operations of RandAugment and TrivialAugment, in torchvision's order. AutoAugment has no
`Identity`, and has `Invert`."""

SIGNED = frozenset(OPERATIONS[1:10])
"""Operations whose strength is negative in half of the cases."""

_FACTORS: dict[str, PixelOperation] = {
    "Brightness": colours.adjust_brightness,
    "Color": colours.adjust_saturation,
    "Contrast": colours.adjust_contrast,
    "Sharpness": colours.adjust_sharpness,
}
_WITHOUT_STRENGTH: dict[str, PixelOperation] = {
    "AutoContrast": colours.stretch_contrast,
    "Equalize": colours.equalize,
    "Invert": colours.invert,
}


def has_strength(name: str) -> bool:
    """Return whether an operation has a strength."""
    return name != "Identity" and name not in _WITHOUT_STRENGTH


def make_call(
    name: str, level: int, sign: int, strengths: Strengths, size: tuple[int, int]
) -> Call:
    """Return the call of an operation other than `Identity`.

    Args:
        name: one of `OPERATIONS`, or `Invert`.
        level: strength, from 0 to `strengths.levels - 1`.
        sign: 1 or -1, the sign of the strength.
        strengths: the largest strengths.
        size: height and width of the image.
    """

    def scale(largest: float) -> float:
        # In float32, as torchvision: translations are cut off to whole colours.
        return sign * float(torch.linspace(0.0, largest, strengths.levels)[level])

    def shift(side: int) -> int:
        largest = 32.0 if strengths.translation is None else strengths.translation * side
        return int(scale(largest))

    def tilt() -> float:
        return math.degrees(math.atan(scale(strengths.shear)))

    height, width = size
    corner = (-width / 2, -height / 2)
    match name:
        case "ShearX":
            matrix = invert_affine(shear=(tilt(), 0.0), centre=corner)
        case "ShearY":
            matrix = invert_affine(shear=(0.0, tilt()), centre=corner)
        case "TranslateX":
            matrix = invert_affine(translation=(shift(width), 0))
        case "TranslateY":
            matrix = invert_affine(translation=(0, shift(height)))
        case "Rotate":
            matrix = invert_affine(degrees=-scale(strengths.rotation))
        case "Posterize":
            dropped = level / ((strengths.levels - 1) / strengths.bits)
            return Call(colours.posterize, (round(8 - dropped),))
        case "Solarize":
            threshold = 255 * float(torch.linspace(1.0, 0.0, strengths.levels)[level])
            return Call(colours.solarize, (threshold,))
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            return Call(_FACTORS[name], (1 + scale(strengths.factor),))
        case _:
            return Call(_WITHOUT_STRENGTH[name])
    return Call(geometry.transform_nearest, matrix)


@dataclass(frozen=True)
class Step:
    """One operation of an AutoAugment policy: its probability and level."""

    name: str
    p: float
    level: int


def _parse(text: str) -> tuple[tuple[Step, ...], ...]:
    """Return pairs of steps. Each line has name, probability and level of the two."""
    pairs = []
    for line in text.strip().splitlines():
        words = line.split()
        steps = (words[:3], words[3:])
        pairs.append(tuple(Step(name, float(p), int(level)) for name, p, level in steps))
    return tuple(pairs)


POLICIES: dict[Literal["imagenet", "cifar10", "svhn"], tuple[tuple[Step, ...], ...]] = {
    "imagenet": _parse("""
        Posterize 0.4 8 Rotate 0.6 9
        Solarize 0.6 5 AutoContrast 0.6 0
        Equalize 0.8 0 Equalize 0.6 0
        Posterize 0.6 7 Posterize 0.6 6
        Equalize 0.4 0 Solarize 0.2 4
        Equalize 0.4 0 Rotate 0.8 8
        Solarize 0.6 3 Equalize 0.6 0
        Posterize 0.8 5 Equalize 1.0 0
        Rotate 0.2 3 Solarize 0.6 8
        Equalize 0.6 0 Posterize 0.4 6
        Rotate 0.8 8 Color 0.4 0
        Rotate 0.4 9 Equalize 0.6 0
        Equalize 0.0 0 Equalize 0.8 0
        Invert 0.6 0 Equalize 1.0 0
        Color 0.6 4 Contrast 1.0 8
        Rotate 0.8 8 Color 1.0 2
        Color 0.8 8 Solarize 0.8 7
        Sharpness 0.4 7 Invert 0.6 0
        ShearX 0.6 5 Equalize 1.0 0
        Color 0.4 0 Equalize 0.6 0
        Equalize 0.4 0 Solarize 0.2 4
        Solarize 0.6 5 AutoContrast 0.6 0
        Invert 0.6 0 Equalize 1.0 0
        Color 0.6 4 Contrast 1.0 8
        Equalize 0.8 0 Equalize 0.6 0
    """),
    "cifar10": _parse("""
        Invert 0.1 0 Contrast 0.2 6
        Rotate 0.7 2 TranslateX 0.3 9
        Sharpness 0.8 1 Sharpness 0.9 3
        ShearY 0.5 8 TranslateY 0.7 9
        AutoContrast 0.5 0 Equalize 0.9 0
        ShearY 0.2 7 Posterize 0.3 7
        Color 0.4 3 Brightness 0.6 7
        Sharpness 0.3 9 Brightness 0.7 9
        Equalize 0.6 0 Equalize 0.5 0
        Contrast 0.6 7 Sharpness 0.6 5
        Color 0.7 7 TranslateX 0.5 8
        Equalize 0.3 0 AutoContrast 0.4 0
        TranslateY 0.4 3 Sharpness 0.2 6
        Brightness 0.9 6 Color 0.2 8
        Solarize 0.5 2 Invert 0.0 0
        Equalize 0.2 0 AutoContrast 0.6 0
        Equalize 0.2 0 Equalize 0.6 0
        Color 0.9 9 Equalize 0.6 0
        AutoContrast 0.8 0 Solarize 0.2 8
        Brightness 0.1 3 Color 0.7 0
        Solarize 0.4 5 AutoContrast 0.9 0
        TranslateY 0.9 9 TranslateY 0.7 9
        AutoContrast 0.9 0 Solarize 0.8 3
        Equalize 0.8 0 Invert 0.1 0
        TranslateY 0.7 9 AutoContrast 0.9 0
    """),
    "svhn": _parse("""
        ShearX 0.9 4 Invert 0.2 0
        ShearY 0.9 8 Invert 0.7 0
        Equalize 0.6 0 Solarize 0.6 6
        Invert 0.9 0 Equalize 0.6 0
        Equalize 0.6 0 Rotate 0.9 3
        ShearX 0.9 4 AutoContrast 0.8 0
        ShearY 0.9 8 Invert 0.4 0
        ShearY 0.9 5 Solarize 0.2 6
        Invert 0.9 0 AutoContrast 0.8 0
        Equalize 0.6 0 Rotate 0.9 3
        ShearX 0.9 4 Solarize 0.3 3
        ShearY 0.8 8 Invert 0.7 0
        Equalize 0.9 0 TranslateY 0.6 6
        Invert 0.9 0 Equalize 0.6 0
        Contrast 0.3 3 Rotate 0.8 4
        Invert 0.8 0 TranslateY 0.0 2
        ShearY 0.7 6 Solarize 0.4 8
        Invert 0.6 0 Rotate 0.8 4
        ShearY 0.3 7 TranslateX 0.9 3
        ShearX 0.1 6 Invert 0.6 0
        Solarize 0.7 2 TranslateY 0.6 7
        ShearY 0.8 4 Invert 0.8 0
        ShearX 0.7 9 TranslateY 0.8 3
        ShearY 0.8 5 AutoContrast 0.7 0
        ShearX 0.7 2 Invert 0.1 0
    """),
}
"""Pairs of operations of AutoAugment (arXiv:1805.09501), as torchvision has them."""
