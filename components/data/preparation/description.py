"""Description of how pictures become pixels: made by preprocess, stored with a model, obeyed later.

A prediction reads it from the model's version, so that a picture gives the pixels that it would
have given in training.
"""

from __future__ import annotations

from components.data.preparation.rules import DecoderRules
from components.params import Limits, Preprocess
from components.records.splits import Preparation

PIXEL_RULES = 1
"""Number of the rules by which `decoder` and `conversion` make pixels of a picture.

Raise it if the same file gives other pixels (`tests/unit/data/test_description.py` notices that).
Versions of other rules are refused, because their predictions would differ from their evaluation.
"""


def describe_preparation(settings: Preprocess) -> Preparation:
    """Return the description of the images that these settings prepare."""
    return Preparation(
        rules=PIXEL_RULES,
        resize=None if settings.target_size is None else settings.resize,
        background=settings.background,
    )


def make_rules(
    preparation: Preparation,
    size: tuple[int, int] | None,
    channels: int | None,
    limits: Limits,
) -> DecoderRules:
    """Return the decoder's rules.

    Args:
        preparation: The description of the images.
        size: Height and width of the pixels, used only if the images are resized.
        channels: 1 or 3; None keeps those of each picture.
        limits: Bounds on files. They decide which files are read, and not what their pixels are.
    """
    return DecoderRules(
        image_size=size if preparation.resize else None,
        resize=preparation.resize or "crop",
        channels=channels,
        background=preparation.background,
        formats=tuple(form.upper() for form in limits.formats),
        max_pixels=limits.max_megapixels * 1_000_000,
        max_seconds=limits.decode_s,
        max_memory=limits.decode_mb << 20,
        strict_jpeg=limits.strict_jpeg,
    )
