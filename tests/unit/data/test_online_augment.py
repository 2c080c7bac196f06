"""On-line augmentation: crop, flip and erasing against a slow reference; MixUp and CutMix."""

from __future__ import annotations

import pytest
import torch

from components.data.loading.online_augment import Augmenter, Mixer
from components.params import OnlineAugment
from tests.conftest import make_images


def augment_slowly(augmenter: Augmenter, pixels: torch.Tensor, row: int) -> torch.Tensor:
    """Augment one image pixel by pixel, with the parameters that `augmenter` has drawn."""
    settings = augmenter.settings
    height, width = pixels.shape[1:3]
    erase_top = int(augmenter.erase_y[row]) - settings.erase // 2
    erase_left = int(augmenter.erase_x[row]) - settings.erase // 2
    out = torch.zeros_like(pixels[row])
    for y in range(height):
        for x in range(width):
            unflipped_x = width - 1 - x if augmenter.flip[row] else x
            source_y = y + int(augmenter.top[row]) - settings.crop_padding
            source_x = unflipped_x + int(augmenter.left[row]) - settings.crop_padding
            if 0 <= source_y < height and 0 <= source_x < width:
                out[y, x] = pixels[row, source_y, source_x]
            inside_y = erase_top <= y < erase_top + settings.erase
            inside_x = erase_left <= x < erase_left + settings.erase
            if inside_y and inside_x:
                out[y, x] = augmenter.fill
    return out


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        OnlineAugment(),
        OnlineAugment(flip=0.5),
        OnlineAugment(crop_padding=2),
        OnlineAugment(erase=4),
        OnlineAugment(flip=0.5, crop_padding=3, erase=5),
    ],
)
def test_batched_augmentation_equals_slow_reference(settings: OnlineAugment, channels: int) -> None:
    pixels = torch.from_numpy(make_images(16, channels=channels).pixels)
    augmenter = Augmenter(16, (12, 12), settings, torch.full((channels,), 99, dtype=torch.uint8))
    augmenter.begin_epoch(seed=1, epoch=1)
    rows = torch.tensor([9, 0, 15, 3, 3])
    augmented = augmenter.augment(pixels[rows], rows)
    assert augmented.dtype == torch.uint8
    for index, row in enumerate(rows.tolist()):
        assert torch.equal(augmented[index], augment_slowly(augmenter, pixels, row))


def test_augmented_image_depends_on_the_epoch_and_not_on_its_batch() -> None:
    pixels = torch.from_numpy(make_images(64).pixels)
    augmenter = Augmenter(
        64, (12, 12), OnlineAugment(flip=0.5, crop_padding=3), torch.zeros(1, dtype=torch.uint8)
    )
    all_rows = torch.arange(64)
    two_rows = torch.tensor([40, 2])
    augmenter.begin_epoch(seed=1, epoch=1)
    first_epoch = augmenter.augment(pixels, all_rows)
    assert torch.equal(augmenter.augment(pixels[two_rows], two_rows), first_epoch[two_rows])
    augmenter.begin_epoch(seed=1, epoch=2)
    assert not torch.equal(augmenter.augment(pixels, all_rows), first_epoch)


@pytest.mark.parametrize("settings", [OnlineAugment(mixup=0.5), OnlineAugment(cutmix=1.0)])
def test_mixed_images_and_labels_have_the_same_proportions(settings: OnlineAugment) -> None:
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 8, 8, 3) * 40
    labels = torch.arange(6)
    mixer = Mixer(settings, 6)
    torch.manual_seed(3)
    mixed, targets = mixer(images, labels)
    assert mixed.shape == images.shape
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert (targets > 0).sum() > 6
    # Image n has the constant value 40 n, so the mean of a mixed image shows its proportions.
    torch.testing.assert_close(mixed.mean((1, 2, 3)) / 40, targets @ torch.arange(6.0))
    torch.manual_seed(3)
    assert torch.equal(mixer(images, labels)[0], mixed)
