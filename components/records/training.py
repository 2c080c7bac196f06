"""Description of a network, and the result of training it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from components.records.base import Record
from components.records.splits import Channels, Preparation


class Network(Record):
    """Arguments for building a model before its weights are loaded.

    `shape` is the `(H, W, C)` of an image. `width` is the number of channels of the first stage,
    None for the architecture's default. With `mirror` the model averages the logits of an image and
    of its mirror image. `options` are arguments of the builder of a library's network.
    `preparation` says how the training images were made of pictures; earlier Kilns left it out.
    """

    architecture: str
    width: int | None
    shape: tuple[int, int, int]
    classes: list[str]
    channels: Channels
    mirror: bool = False
    stem: Literal["cifar", "half", "imagenet"] = "cifar"
    options: dict[str, Any] = Field(default_factory=dict)
    # Left out if None, so that the files of earlier versions can still be made again byte by byte.
    preparation: Preparation | None = Field(default=None, exclude_if=lambda value: value is None)


class Epoch(Record):
    """One row of `history.csv`.

    `step` counts the steps from the start of training to the end of the epoch. Losses are means per
    image in nats. `train_top1` and `val_top1` are fractions of 1. All are exact over the images of
    the split, for any number of workers.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float


class TrainResult(Record):
    """`models/M/result.json`: the description of the weights beside it.

    `parameters` is the number of weights. `sha256` is the digest of `weights.safetensors`. `data`
    maps `raw`, `prepared`, `training` (the augmented split) and `validation` to the digests of the
    data. `micro_batches` is the number of micro-batches in a global batch.
    """

    model: str
    parameters: int
    sha256: str
    fingerprint: str
    data: dict[str, str]
    micro_batches: int
    global_batch_size: int
    device: str
    precision: str
    recipe: dict[str, Any]
    seed: int
    best: Epoch
