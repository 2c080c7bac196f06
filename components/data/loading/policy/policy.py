"""On-line augmentation by a policy: the operations of the section `augment`, on batches.

The parameters are drawn on the CPU for one image at a time, from a generator that is seeded with
the seed, the epoch and the row of the image. The pixels are computed on the device for groups of
images that have the same operation.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from components.data.loading.policy.calls import Call, PixelOperation
from components.data.loading.policy.draws import Draws, Size, draw_calls
from components.data.loading.policy.geometry import resize
from components.params import Operation, Recipe, ResizedCrop

# Pixels that are processed together on a CPU, in bytes: their float32 values fit its cache.
_CPU_CHUNK = 1 << 17


class Policy:
    """Operations of a recipe's `augment.policy`, and the change to its `train_size`.

    The first resized crop returns images of the train size. Without one, images are resized
    before the first operation.

    Args:
        operations: the operations, in order.
        size: height and width of the stored images.
        train_size: height and width of the results.
        seed: root seed of the training.
    """

    def __init__(
        self, operations: list[Operation], size: Size, train_size: Size, seed: int
    ) -> None:
        self.operations = operations
        self.size = size
        self.train_size = train_size
        self.seed = seed
        self.crops = any(isinstance(operation, ResizedCrop) for operation in operations)

    def augment(self, images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Return images `uint8 (B, h, w, C)` of the train size, augmented for an epoch.

        The result for an image depends on the seed, the epoch, its row and its pixels alone.

        Args:
            images: images `uint8 (B, H, W, C)` on any device.
            rows: their rows, `int64 (B,)` on the CPU.
            epoch: number of the epoch.
        """
        calls = [self.draw(row, epoch) for row in rows.tolist()]
        size = len(images)
        if images.device.type == "cpu":
            size = max(1, _CPU_CHUNK // images[0].numel())
        chunks = []
        for start in range(0, len(images), size):
            chunk = images[start : start + size].permute(0, 3, 1, 2)
            if not self.crops:
                chunk = resize(chunk, list(self.train_size))
            augmented = _apply(chunk, calls[start : start + size])
            chunks.append(augmented.to(torch.uint8).permute(0, 2, 3, 1).contiguous())
        return torch.cat(chunks)

    def draw(self, row: int, epoch: int) -> list[list[Call]]:
        """Return the calls for an image, one list per operation."""
        draws = Draws(make_generator(self.seed, epoch, row))
        size = self.size if self.crops else self.train_size
        calls = []
        for operation in self.operations:
            calls.append(draw_calls(operation, draws, size, self.train_size))
            if isinstance(operation, ResizedCrop):
                size = self.train_size
        return calls


def make_policy(recipe: Recipe, size: Size, seed: int) -> Policy | None:
    """Return the policy of a recipe for images of a height and width; None if it has none."""
    if not recipe.augment.policy and recipe.train_size is None:
        return None
    return Policy(recipe.augment.policy, size, recipe.train_sides or size, seed)


def resize_images(images: Tensor, size: Size) -> Tensor:
    """Return images `uint8 (B, H, W, C)` in another size, as `Policy` resizes them."""
    resized = resize(images.permute(0, 3, 1, 2), list(size))
    return resized.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def make_generator(seed: int, epoch: int, row: int) -> torch.Generator:
    """Return the random generator of one image in one epoch."""
    key = f"{seed}/{epoch}/{row}".encode()
    # torch's generator of the CPU uses 32 bits of a seed.
    digest = hashlib.blake2b(key, digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest))


def _apply(images: Tensor, calls: list[list[list[Call]]]) -> Tensor:
    """Apply to each of `images` its calls of the first operation, then of the second, and so on.

    An operation of several calls, such as colour jitter, has them in an order of its own for each
    image: the first calls of all images come first, then the second ones.
    """
    for of_images in zip(*calls, strict=True):
        for position in range(max(map(len, of_images))):
            images = _apply_one(
                images, [call[position] if position < len(call) else None for call in of_images]
            )
    return images


def _apply_one(images: Tensor, calls: list[Call | None]) -> Tensor:
    """Apply one call to each image, in groups with the same operation."""
    groups: dict[PixelOperation | None, list[int]] = {}
    for index, call in enumerate(calls):
        groups.setdefault(call.operation if call else None, []).append(index)
    parts = []
    for operation, indices in groups.items():
        part = images if len(groups) == 1 else _take(images, indices)
        if operation is not None:
            values = [call.values for index in indices if (call := calls[index]) is not None]
            part = operation(part, torch.tensor(values, dtype=torch.float64))
        parts.append(part)
    if len(parts) == 1:
        return parts[0]
    order = [index for indices in groups.values() for index in indices]
    return _take(torch.cat(parts), sorted(range(len(order)), key=order.__getitem__))


def _take(images: Tensor, indices: list[int]) -> Tensor:
    return images[torch.tensor(indices).to(images.device, non_blocking=True)]
