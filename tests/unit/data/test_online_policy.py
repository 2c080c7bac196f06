"""On-line policies against the off-line transforms of torchvision, one image at a time.

The oracle is `build_policy`, which makes the copies on disk. torchvision draws from the global
generator and the policy from one per image: with the same state, both must draw the same.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from components.data.augmentation.offline import build_policy
from components.data.loading.policy.policy import Policy, make_generator
from components.params import Operation, Recipe
from tests.conftest import make_images

SEED = 7
EPOCH = 3
SIZE = (30, 23)
ROWS = 24

FLIP = {"name": "horizontal_flip"}
JITTER = {
    "name": "colour_jitter",
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.2,
}
AFFINE = {"name": "affine", "degrees": 30, "translate": 0.2, "scale": [0.6, 1.4], "shear": 10}
ROTATION = {"name": "rotation", "degrees": 45}
# These select, copy or resize pixels, and sum whole numbers: nothing is rounded differently.
EXACT = [
    FLIP,
    {"name": "vertical_flip"},
    {"name": "crop", "padding": 5},
    {"name": "shift", "fraction": 0.3},
    {"name": "resized_crop", "scale": [0.1, 0.8]},
    {"name": "resized_crop", "scale": [0.9, 1.0], "ratio": [2.0, 3.0]},
    {"name": "erasing", "p": 0.7, "scale": [0.1, 0.9]},
]
# These compute in float32 and cut off decimals: where torchvision adds in one rounding or in
# another order, a value that is nearly whole falls by one level. Of two pixels at the same distance
# either may be the nearest.
ROUNDED = [
    {"name": "colour_jitter", "brightness": 0.8},
    {"name": "colour_jitter", "contrast": 0.8},
    {"name": "colour_jitter", "saturation": 0.8},
    {"name": "colour_jitter", "hue": 0.5},
    JITTER,
    {"name": "rand_augment", "operations": 1, "magnitude": 30},
    {"name": "rand_augment", "operations": 3},
    {"name": "trivial_augment"},
    {"name": "auto_augment"},
    {"name": "auto_augment", "policy": "cifar10"},
    {"name": "auto_augment", "policy": "svhn"},
]
MAX_DIFFERENT = 0.003
"""Largest fraction of values that may differ from the oracle's by more than one level."""


def name_of(operation: dict[str, Any]) -> str:
    return " ".join(map(str, operation.values()))


def make_pixels(channels: int) -> Tensor:
    """Return smooth images `uint8 (N, H, W, C)` that use all levels and have a constant area."""
    noise = torch.rand(ROWS, channels, *SIZE, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
    smooth = (smooth - smooth.amin()) / (smooth.amax() - smooth.amin())
    smooth[:, :, :4, :4] = 0.5
    return (smooth * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def make_recipe(policy: list[dict[str, Any]], **values: Any) -> Recipe:
    return Recipe.model_validate(
        {"architecture": "cnn", "epochs": 1, "learning_rate": 0.1, "augment": {"policy": policy}}
        | values
    )


def augment(pixels: Tensor, policy: list[dict[str, Any]], rows: Tensor | None = None) -> Tensor:
    operations = make_recipe(policy).augment.policy
    rows = torch.arange(len(pixels)) if rows is None else rows
    return Policy(operations, SIZE, SIZE, SEED).augment(pixels, rows, EPOCH)


def augment_slowly(pixels: Tensor, policy: list[Operation]) -> Tensor:
    """Apply the off-line transforms to one image after the other."""
    transform = build_policy(policy, *SIZE)
    augmented = []
    for row, image in enumerate(pixels):
        state = make_generator(SEED, EPOCH, row).get_state()
        torch.default_generator.set_state(state)
        augmented.append(transform(image.permute(2, 0, 1)).permute(1, 2, 0))
    return torch.stack(augmented)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", EXACT + ROUNDED, ids=name_of)
def test_operation_equals_the_off_line_one(operation: dict[str, Any], channels: int) -> None:
    pixels = make_pixels(channels)
    augmented = augment(pixels, [operation])
    expected = augment_slowly(pixels, make_recipe([operation]).augment.policy)
    assert augmented.dtype == torch.uint8
    difference = (augmented.int() - expected.int()).abs()
    if operation in EXACT:
        assert not difference.any()
    else:
        assert (difference > 1).float().mean() <= MAX_DIFFERENT
        assert (difference > 0).float().mean() <= 0.01
    colour_only = operation.keys() & {"saturation", "hue"} and "brightness" not in operation
    assert torch.equal(augmented, pixels) == bool(channels == 1 and colour_only)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", [AFFINE, ROTATION], ids=name_of)
def test_affine_operation_equals_the_off_line_one_inside_the_picture(
    operation: dict[str, Any], channels: int
) -> None:
    """torchvision darkens the outermost pixels twice: once as zeros, once as `fill`."""
    pixels = make_pixels(channels)
    policy = make_recipe([operation]).augment.policy
    augmented = augment(pixels, [operation])
    expected = augment_slowly(pixels, policy)
    coverage = augment_slowly(torch.full_like(pixels, 255), policy)
    inside = coverage == 255
    assert 0.5 < inside.float().mean() < 0.95
    assert (augmented.int() - expected.int()).abs()[inside].max() <= 1
    # Pixels that are covered by a twentieth have a coverage of 255 / 400.
    assert augmented[coverage == 0].max() <= 255 / 20
    assert (augmented.int() >= expected.int() - 1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_image_does_not_depend_on_its_batch(channels: int) -> None:
    pixels = make_pixels(channels)
    policy = [*EXACT, *ROUNDED, AFFINE, ROTATION]
    together = augment(pixels, policy)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))
    assert torch.equal(augment(pixels[order], policy, order), together[order])
    for row in range(0, ROWS, 4):
        alone = augment(pixels[row : row + 1], policy, torch.tensor([row]))
        assert torch.equal(alone[0], together[row])


def test_draws_depend_on_seed_epoch_and_row() -> None:
    operations = make_recipe([JITTER]).augment.policy
    calls = [
        str(Policy(operations, SIZE, SIZE, seed).draw(row, epoch))
        for seed, row, epoch in [(0, 0, 1), (0, 1, 1), (0, 0, 2), (1, 0, 1), (1 << 30, 0, 1)]
    ]
    assert len(set(calls)) == len(calls)


def test_draws_of_images_are_uniform_and_independent() -> None:
    flips = torch.tensor(
        [
            [torch.rand(1, generator=make_generator(SEED, epoch, row)).item() for row in range(500)]
            for epoch in (1, 2)
        ]
    )
    assert flips.mean().item() == pytest.approx(0.5, abs=0.04)
    assert abs(torch.corrcoef(flips)[0, 1].item()) < 0.15


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ([], v2.Resize([16, 11], antialias=True)),
        ([{"name": "vertical_flip", "p": 1}], v2.Resize([16, 11], antialias=True)),
        ([{"name": "resized_crop", "scale": [1, 1], "ratio": [0.76, 0.77]}], None),
    ],
    ids=["resize", "resize before the policy", "resized crop"],
)
def test_images_get_the_train_size(policy: list[dict[str, Any]], expected: Any) -> None:
    pixels = make_pixels(3)
    operations = make_recipe(policy).augment.policy
    augmented = Policy(operations, SIZE, (16, 11), SEED).augment(pixels, torch.arange(ROWS), EPOCH)
    assert augmented.shape == (ROWS, 16, 11, 3)
    assert augmented.is_contiguous()
    if expected is None:
        transform = v2.RandomResizedCrop([16, 11], (1, 1), (0.76, 0.77), antialias=True)
        torch.default_generator.set_state(make_generator(SEED, EPOCH, 0).get_state())
        assert torch.equal(augmented[0], transform(pixels[0].permute(2, 0, 1)).permute(1, 2, 0))
    else:
        small = expected(pixels.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        assert torch.equal(augmented, small.flip(1) if policy else small)


def test_operations_after_a_resized_crop_see_the_train_size() -> None:
    """Translations are fractions of the side: a drawn shift never leaves the smaller image."""
    policy = [{"name": "resized_crop"}, {"name": "shift", "fraction": 0.5}]
    operations = make_recipe(policy).augment.policy
    drawn = [Policy(operations, (64, 64), (8, 8), SEED).draw(row, 1)[1] for row in range(40)]
    largest = max(abs(value) for calls in drawn for value in calls[0].values)
    assert largest == 4


def test_stored_images_are_not_changed() -> None:
    pixels = torch.from_numpy(make_images(6, size=SIZE[0], channels=3).pixels)
    before = pixels.clone()
    operations = make_recipe([FLIP, JITTER, {"name": "erasing", "p": 1}]).augment.policy
    Policy(operations, (30, 30), (30, 30), SEED).augment(pixels, torch.arange(6), EPOCH)
    assert torch.equal(pixels, before)
