"""The batch path: every example once per epoch, and the same pictures whoever computes them."""

from __future__ import annotations

import pytest
import torch

from components.data.loading.online_augment import Augmenter, Mixer
from components.data.loading.sampling import epoch_batches
from components.params import OnlineAugment
from tests.conftest import make_images


@pytest.mark.parametrize("rows", [48, 50, 49, 5])
def test_an_epoch_sees_every_row_once_in_whole_batches_but_the_last(rows: int) -> None:
    batches = epoch_batches(torch.zeros(rows), 12, seed=3, epoch=2)
    assert [len(batch) for batch in batches] == [12] * (rows // 12) + ([rows % 12] if rows % 12 else [])
    assert sorted(torch.cat(batches).tolist()) == list(range(rows))


def test_balanced_batches_show_every_class_equally_often_and_its_rows_in_turn() -> None:
    labels = torch.tensor([0] * 100 + [1] * 10 + [2] * 1 + [4] * 3)  # nothing of class 3
    rows = torch.cat(epoch_batches(labels, 7, seed=0, epoch=1, balanced=True))
    assert len(rows) == len(labels)
    assert torch.bincount(labels[rows]).tolist() == [29, 29, 28, 0, 28]
    times = torch.bincount(rows, minlength=len(labels))
    for label in (0, 1, 2, 4):
        own = times[labels == label]
        assert own.max() - own.min() <= 1
    again = torch.cat(epoch_batches(labels, 7, seed=0, epoch=2, balanced=True))
    seen = (times > 0) | (torch.bincount(again, minlength=len(labels)) > 0)
    assert seen[labels == 0].sum() > 40, "another epoch shows others of the large class"


def test_mixed_images_are_made_of_their_micro_batch_and_so_are_their_labels() -> None:
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 8, 8, 3) * 40
    labels = torch.arange(6)
    for settings in ({"mixup": 0.5}, {"cutmix": 1.0}):
        mixer = Mixer(OnlineAugment.model_validate(settings), 6)
        torch.manual_seed(3)
        mixed, targets = mixer(images, labels)
        assert mixed.shape == images.shape
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        assert (targets > 0).sum() > 6
        # Every image is of one colour, so that its mean tells what it is made of.
        torch.testing.assert_close(mixed.mean((1, 2, 3)) / 40, targets @ torch.arange(6.0))
        torch.manual_seed(3)
        assert torch.equal(mixer(images, labels)[0], mixed)


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        order: list[int] = torch.cat(epoch_batches(torch.zeros(100), 10, seed, epoch)).tolist()
        return order

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (1, 2)}) == 4


def oracle(augmenter: Augmenter, pixels: torch.Tensor, row: int) -> torch.Tensor:
    """One image, pixel by pixel."""
    s, (height, width) = augmenter.settings, pixels.shape[1:3]
    out = torch.zeros_like(pixels[row])
    for y in range(height):
        for x in range(width):
            from_x = width - 1 - x if augmenter.flip[row] else x
            source_y = y + int(augmenter.top[row]) - s.crop_padding
            source_x = from_x + int(augmenter.left[row]) - s.crop_padding
            if 0 <= source_y < height and 0 <= source_x < width:
                out[y, x] = pixels[row, source_y, source_x]
            start_y, start_x = int(augmenter.erase_y[row]) - s.erase // 2, int(augmenter.erase_x[row]) - s.erase // 2
            if s.erase and start_y <= y < start_y + s.erase and start_x <= x < start_x + s.erase:
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
def test_batched_augmentation_is_that_of_a_slow_oracle(settings: OnlineAugment, channels: int) -> None:
    pixels = torch.from_numpy(make_images(16, channels=channels).pixels)
    augmenter = Augmenter(16, (12, 12), settings, torch.full((channels,), 99, dtype=torch.uint8))
    augmenter.begin(seed=1, epoch=1)
    rows = torch.tensor([9, 0, 15, 3, 3])
    found = augmenter.batch(pixels[rows], rows)
    assert found.dtype == torch.uint8
    for n, row in enumerate(rows.tolist()):
        assert torch.equal(found[n], oracle(augmenter, pixels, row))


def test_an_image_looks_the_same_in_whatever_batch_it_comes_and_different_every_epoch() -> None:
    pixels = torch.from_numpy(make_images(64).pixels)
    augmenter = Augmenter(64, (12, 12), OnlineAugment(flip=0.5, crop_padding=3), torch.zeros(1, dtype=torch.uint8))
    everyone, two = torch.arange(64), torch.tensor([40, 2])
    augmenter.begin(seed=1, epoch=1)
    whole = augmenter.batch(pixels, everyone)
    assert torch.equal(augmenter.batch(pixels[two], two), whole[two])
    augmenter.begin(seed=1, epoch=2)
    assert not torch.equal(augmenter.batch(pixels, everyone), whole)
