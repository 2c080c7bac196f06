"""Features of a frozen backbone, computed once instead of in every epoch.

A backbone that is never trained gives an image the same features in every epoch, if no augmentation
changes the image. With flips there are two vectors of features. They are computed once for every
image, and the head alone is trained.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from components.data.loading.image_stores import ImageStore
from components.models.classifier import Classifier
from components.models.initial import find_head
from components.params import OnlineAugment
from components.training.callback import TrainerCallback
from components.training.collectives import get_rank_and_world_size, sum_over_ranks
from components.training.config import LoopConfig
from components.training.events import FeaturesComputed
from components.training.validation import choose_batch_size

_MAX_BYTES = 2 << 30
_REPORT_INTERVAL_S = 1.0


class FrozenFeatures:
    """The features of a split on the training device, as images of F channels.

    An image has the shape `(1, V, F)`. With V = 2 it has the features of the original and those of
    its mirror image side by side, so that flipping it exchanges them.

    Args:
        images: the store that the features were computed from; it has the labels and the ids.
        features: `float (N, 1, V, F)`.
    """

    def __init__(self, images: ImageStore, features: Tensor) -> None:
        self.images = images
        self.features = features
        self.labels = images.labels
        self.shape: tuple[int, ...] = features.shape[1:]

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, rows: Tensor) -> Tensor:
        return self.features[rows.to(self.features.device, non_blocking=True)]

    def fetch_ids(self, rows: list[int]) -> list[str]:
        return self.images.fetch_ids(rows)


class Head(nn.Module):
    """The head of a model, which maps features `float (N, 1, V, F)` to logits `(N, K)`.

    It takes the first of V vectors. In validation a model with `mirror` takes their mean: since the
    head is linear, this gives the mean of the logits.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.path = f"network.{find_head(model.network)}"
        head = model.get_submodule(self.path)
        assert isinstance(head, nn.Linear)
        self.head = head
        self.mirror = model.mirror

    def forward(self, features: Tensor) -> Tensor:
        average = self.mirror and not self.training
        logits: Tensor = self.head(features.mean((1, 2)) if average else features[:, 0, 0])
        return logits

    def complete(self, weights: dict[str, Tensor], model: Classifier) -> dict[str, Tensor]:
        """Return the state dict of `model` on the CPU, with `weights` of this module in it."""
        state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        trained = {name.replace("head", self.path, 1): value for name, value in weights.items()}
        return state | trained


def can_compute_once(config: LoopConfig, model: Classifier) -> bool:
    """Return whether each image has the same features in all epochs, apart from a flip.

    The head has to be a linear layer whose output is that of the network, and the features may take
    up to 2 GiB. The answer does not depend on the machine, because it changes the order of
    floating-point operations.
    """
    recipe = config.recipe
    only_flips = recipe.augment == OnlineAugment(flip=recipe.augment.flip)
    if not recipe.freeze_backbone or not only_flips or recipe.train_size is not None:
        return False
    head = model.network.get_submodule(find_head(model.network))
    if not isinstance(head, nn.Linear):
        return False
    num_vectors = len(config.train) * _num_views(recipe.augment.flip) + len(config.val) * 2
    if num_vectors * head.in_features * 4 > _MAX_BYTES:
        return False
    blank = torch.zeros((2, *config.network.shape), dtype=torch.uint8, device=config.device)
    with torch.no_grad():
        features, logits = _record_features(model.train(), head, blank)
        return features.ndim == 2 and torch.equal(head(features), logits)


def compute_once(config: LoopConfig, model: Classifier) -> tuple[LoopConfig, Head]:
    """Compute the features of both splits; return the inputs for training the head on them.

    Every rank calls this function. It computes an equal share of fixed batches of each split, so
    that the features are the same to the bit for any number of ranks.
    """
    head = Head(model)
    views = {"train": _num_views(config.recipe.augment.flip), "val": _num_views(model.mirror)}
    images = len(config.train) * views["train"] + len(config.val) * views["val"]
    progress = _Progress(config.callback, images)
    model.train()  # so that it does not average mirror images; frozen layers stay as they are
    train = _compute(model, head.head, config.train, views["train"], progress)
    val = _compute(model, head.head, config.val, views["val"], progress)
    return replace(
        config, train=FrozenFeatures(config.train, train), val=FrozenFeatures(config.val, val)
    ), head


def _num_views(mirrored: float) -> int:
    return 2 if mirrored else 1


@torch.no_grad()
def _compute(
    model: Classifier, head: nn.Linear, images: ImageStore, views: int, progress: _Progress
) -> Tensor:
    """Return the features `float (N, 1, V, F)` of all images, in fp32."""
    rank, world = get_rank_and_world_size()
    batch_size = choose_batch_size(images.shape)
    features = torch.zeros(len(images), 1, views, head.in_features, device=head.weight.device)
    for n, rows in enumerate(torch.arange(len(images)).split(batch_size)):
        if n % world == rank:
            batch = images.fetch(rows)
            for view in range(views):
                oriented = batch.flip(2) if view else batch
                features[rows, 0, view] = _record_features(model, head, oriented)[0]
        progress.advance(len(rows) * views)
    # One rank has computed each value, and the others add zeros.
    return sum_over_ranks(features)


def _record_features(model: Classifier, head: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the input of the head, `float (B, F)`, and the logits of the model."""
    inputs: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        logits = model(images)
    finally:
        handle.remove()
    return inputs[0], logits


class _Progress:
    """Reports the number of images done to the callback, about once a second and at the end."""

    def __init__(self, callback: TrainerCallback, images: int) -> None:
        self.callback = callback
        self.images = images
        self.done = 0
        self.started = time.monotonic()
        self.reported = self.started

    def advance(self, images: int) -> None:
        """Count images that are done. Every rank counts all of them."""
        self.done += images
        self.callback.on_progress()
        now = time.monotonic()
        if self.done == self.images or now - self.reported >= _REPORT_INTERVAL_S:
            self.reported = now
            if get_rank_and_world_size()[0] == 0:
                self.callback.on_event(FeaturesComputed(self.done, self.images, now - self.started))
