"""Section `augment` (copies on disk), and `augment` of a recipe (batches while training)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from components.params.base import Boolean, Fraction, Integer, Number, Section


def _check_order(pair: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError(
            f"{info.field_name} is {list(pair)}; it goes from small to large, both above 0"
        )
    return pair


_Ordered = AfterValidator(_check_order)


class HorizontalFlip(Section):
    """Mirror an image left to right."""

    name: Literal["horizontal_flip"]
    p: Fraction = 0.5
    """Probability of the flip."""


class VerticalFlip(Section):
    """Mirror an image top to bottom."""

    name: Literal["vertical_flip"]
    p: Fraction = 0.5
    """Probability of the flip."""


class Crop(Section):
    """Cut a window of the original size out of the padded image."""

    name: Literal["crop"]
    padding: Annotated[Integer, Field(ge=1, le=64)]
    """Zero pixels added on each side before a window of the original size is cut out."""


class ResizedCrop(Section):
    """Cut out a rectangle and scale it to the size of the image."""

    name: Literal["resized_crop"]
    scale: Annotated[tuple[Fraction, Fraction], _Ordered] = (0.5, 1.0)
    """Smallest and largest area of the rectangle, as a fraction of the image's area."""
    ratio: Annotated[tuple[Number, Number], _Ordered] = (0.75, 1.333)
    """Smallest and largest aspect ratio (width divided by height) of the rectangle."""


class Affine(Section):
    """Rotate, translate, scale and shear an image."""

    name: Literal["affine"]
    degrees: Annotated[Number, Field(ge=0, le=180)] = 0.0
    """Largest rotation in either direction, in degrees."""
    translate: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Largest translation in either direction, as a fraction of the side."""
    scale: Annotated[tuple[Number, Number], _Ordered] = (1.0, 1.0)
    """Smallest and largest scale factor."""
    shear: Annotated[Number, Field(ge=0, lt=90)] = 0.0
    """Largest shear angle, in degrees."""


class ColourJitter(Section):
    """Change brightness, contrast, saturation and hue at random."""

    name: Literal["colour_jitter"]
    brightness: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Largest change in either direction, as a fraction of the original brightness."""
    contrast: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Largest change in either direction, as a fraction of the original contrast."""
    saturation: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Largest change in either direction, as a fraction of the original saturation. Grey images do
    not change."""
    hue: Annotated[Number, Field(ge=0, le=0.5)] = 0.0
    """Largest rotation of the colour circle in either direction, as a fraction of it. Grey images
    do not change."""


class RandAugment(Section):
    """RandAugment (arXiv:1909.13719)."""

    name: Literal["rand_augment"]
    operations: Annotated[Integer, Field(ge=1, le=14)] = 2
    """Number of RandAugment's 14 operations that are applied in sequence (arXiv:1909.13719)."""
    magnitude: Annotated[Integer, Field(ge=0, le=30)] = 9
    """Strength of the operations, on a scale of 31 levels."""


class TrivialAugment(Section):
    """TrivialAugment (arXiv:2103.10158): one random operation of random strength."""

    name: Literal["trivial_augment"]


class AutoAugment(Section):
    """AutoAugment (arXiv:1805.09501)."""

    name: Literal["auto_augment"]
    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    """Data set for which the policy was learned (arXiv:1805.09501)."""


class Shift(Section):
    """Translate an image."""

    name: Literal["shift"]
    fraction: Annotated[Number, Field(gt=0, lt=1)]
    """Largest translation in either direction, as a fraction of the side."""


class Rotation(Section):
    """Rotate an image."""

    name: Literal["rotation"]
    degrees: Annotated[Number, Field(gt=0, le=180)]
    """Largest rotation in either direction, in degrees."""


class Erasing(Section):
    """Erase a random rectangle (arXiv:1708.04896)."""

    name: Literal["erasing"]
    p: Fraction = 0.5
    """Probability of the erasure."""
    scale: Annotated[tuple[Fraction, Fraction], _Ordered] = (0.02, 0.2)
    """Smallest and largest area of the erased rectangle, as a fraction of the image's area
    (arXiv:1708.04896)."""


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
    """Section `augment`: augmented copies of the training images, written before training."""

    copies: Annotated[Integer, Field(ge=0, le=100)] = 0
    """Augmented copies of each training image, in addition to the original."""
    balance: Boolean = False
    """Give smaller classes more copies, until each has as many images as the largest."""
    policy: list[Operation] = []
    """Operations that are applied to each copy, in this order."""

    @property
    def makes_copies(self) -> bool:
        """True if there are copies of any image."""
        return bool(self.copies or self.balance)

    @model_validator(mode="after")
    def _check_copies_differ(self) -> Augment:
        if self.makes_copies and not self.policy:
            raise ValueError(
                "policy is empty, so that copies would be duplicates; "
                "name an operation or set copies: 0"
            )
        return self


class OnlineAugment(Section):
    """On-line augmentation: drawn on the worker for each image, and anew in each epoch."""

    flip: Fraction = 0.0
    """Probability of a horizontal flip."""
    crop_padding: Annotated[Integer, Field(ge=0, le=64)] = 0
    """Zero pixels added on each side before a random crop of the original size; 0 disables it."""
    erase: Annotated[Integer, Field(ge=0, le=512)] = 0
    """Side, in pixels, of one square that is set to the channel mean (Cutout, arXiv:1708.04552);
    0 disables it."""
    mixup: Annotated[Number, Field(ge=0)] = 0.0
    """Parameter alpha of MixUp (arXiv:1710.09412): images and labels of a micro-batch are averaged
    in pairs; 0 disables it."""
    cutmix: Annotated[Number, Field(ge=0)] = 0.0
    """Parameter alpha of CutMix (arXiv:1905.04899): a box of one image is pasted into another; 0
    disables it. Where `mixup` is enabled too, one of the two is drawn at random."""
    policy: list[Operation] = []
    """Operations of `augment.policy`, applied to each image in this order, after `flip`,
    `crop_padding` and `erase` and before `mixup` and `cutmix`. The parameters for an image are
    drawn from `seed`, the epoch and the image alone."""
