"""Section `augment`, and what is done to batches while training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from components.params.base import Flag, Real, Section, Share, Whole


def _refuse_disorder(pair: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError(f"{info.field_name} is {list(pair)}; it goes from small to large, both above 0")
    return pair


_Ordered = AfterValidator(_refuse_disorder)


class HorizontalFlip(Section):
    name: Literal["horizontal_flip"]
    p: Share = 0.5
    """Probability."""


class VerticalFlip(Section):
    name: Literal["vertical_flip"]
    p: Share = 0.5
    """Probability."""


class Crop(Section):
    name: Literal["crop"]
    padding: Annotated[Whole, Field(ge=1, le=64)]
    """Zero pixels added on each side before a window of the original size is cut out."""


class ResizedCrop(Section):
    name: Literal["resized_crop"]
    scale: Annotated[tuple[Share, Share], _Ordered] = (0.5, 1.0)
    """Smallest and largest share of the area that is cut out and scaled to the whole."""
    ratio: Annotated[tuple[Real, Real], _Ordered] = (0.75, 1.333)
    """Least and most width per height of what is cut out."""


class Affine(Section):
    name: Literal["affine"]
    degrees: Annotated[Real, Field(ge=0, le=180)] = 0.0
    """Largest angle in either direction."""
    translate: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Largest move in either direction, as a share of the side."""
    scale: Annotated[tuple[Real, Real], _Ordered] = (1.0, 1.0)
    """Smallest and largest factor."""
    shear: Annotated[Real, Field(ge=0, lt=90)] = 0.0
    """Largest angle of shearing, in degrees."""


class ColourJitter(Section):
    name: Literal["colour_jitter"]
    brightness: Annotated[Real, Field(ge=0, le=1)] = 0.0
    """Largest change in either direction, as a share."""
    contrast: Annotated[Real, Field(ge=0, le=1)] = 0.0
    """Largest change in either direction, as a share."""
    saturation: Annotated[Real, Field(ge=0, le=1)] = 0.0
    """Largest change in either direction, as a share; grey images have none."""
    hue: Annotated[Real, Field(ge=0, le=0.5)] = 0.0
    """Largest turn of the colour circle in either direction, as a share of it; grey images have none."""


class RandAugment(Section):
    name: Literal["rand_augment"]
    operations: Annotated[Whole, Field(ge=1, le=14)] = 2
    """How many of its 14 operations are applied, one after the other (arXiv:1909.13719)."""
    magnitude: Annotated[Whole, Field(ge=0, le=30)] = 9
    """How strongly, of 31 levels."""


class TrivialAugment(Section):
    """One operation of any strength (arXiv:2103.10158)."""

    name: Literal["trivial_augment"]


class AutoAugment(Section):
    name: Literal["auto_augment"]
    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    """The data set that the policy was found for (arXiv:1805.09501)."""


class Shift(Section):
    name: Literal["shift"]
    fraction: Annotated[Real, Field(gt=0, lt=1)]
    """Largest move in either direction, as a share of the side."""


class Rotation(Section):
    name: Literal["rotation"]
    degrees: Annotated[Real, Field(gt=0, le=180)]
    """Largest angle in either direction."""


class Erasing(Section):
    name: Literal["erasing"]
    p: Share = 0.5
    """Probability."""
    scale: Annotated[tuple[Share, Share], _Ordered] = (0.02, 0.2)
    """Smallest and largest erased share of the area (arXiv:1708.04896)."""


Operation = Annotated[
    HorizontalFlip
    | VerticalFlip
    | Crop
    | ResizedCrop
    | Shift
    | Affine
    | Rotation
    | ColourJitter
    | Erasing
    | RandAugment
    | TrivialAugment
    | AutoAugment,
    Field(discriminator="name"),
]


class Augment(Section):
    copies: Annotated[Whole, Field(ge=0, le=100)] = 0
    """Augmented copies of each training image, beside the original."""
    balance: Flag = False
    """Give smaller classes more copies, until each has as many images as the largest."""
    policy: list[Operation] = []
    """What happens to a copy, in this order."""

    @model_validator(mode="after")
    def _copies_differ(self) -> Augment:
        if (self.copies or self.balance) and not self.policy:
            raise ValueError("policy is empty, so that copies would be duplicates; name an operation or set copies: 0")
        return self


class OnlineAugment(Section):
    """Drawn anew for each image and epoch, on the worker."""

    flip: Share = 0.0
    """Probability of a horizontal flip."""
    crop_padding: Annotated[Whole, Field(ge=0, le=64)] = 0
    """Zero pixels on each side for a random crop; 0 switches it off."""
    erase: Annotated[Whole, Field(ge=0, le=512)] = 0
    """Side in pixels of one square set to the channel mean (Cutout, arXiv:1708.04552); 0 switches it off."""
    mixup: Annotated[Real, Field(ge=0)] = 0.0
    """alpha of MixUp (arXiv:1710.09412): images and labels of a micro-batch are averaged in pairs; 0 switches it off."""
    cutmix: Annotated[Real, Field(ge=0)] = 0.0
    """alpha of CutMix (arXiv:1905.04899): a box of one image is pasted into another. With `mixup` too, either is drawn."""
