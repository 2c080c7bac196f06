"""The choice of a network's stem."""

from __future__ import annotations

from typing import Literal

import pytest

from components.models.stems import choose_stem
from components.params.base import Stem

SIZES = ((28, 28), (224, 64), (65, 224))


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("auto", ["cifar", "cifar", "imagenet"]),
        ("cifar", ["cifar", "cifar", "cifar"]),
        ("imagenet", ["imagenet", "imagenet", "imagenet"]),
    ],
)
def test_auto_chooses_by_the_shorter_side_and_a_named_stem_is_kept(
    stem: Stem | Literal["auto"], expected: list[Stem]
) -> None:
    assert [choose_stem("resnet50", stem, *size) for size in SIZES] == expected


@pytest.mark.parametrize("architecture", ["cnn", "resnet20"])
def test_architectures_without_a_choice_have_the_cifar_stem(architecture: str) -> None:
    assert choose_stem(architecture, "auto", 224, 224) == "cifar"
