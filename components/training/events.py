"""Events of a training, as plain data. Only rank 0 emits them."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.records.training import Epoch


@dataclass(frozen=True)
class PrecisionProbed:
    """Result of the precision probe.

    `speedup` is the time in fp32 divided by the time in bfloat16, over all ranks; None on a GPU,
    where it is not measured. `cosine` is the cosine similarity of this rank's gradients in both
    precisions.
    """

    precision: str
    speedup: float | None
    cosine: float


@dataclass(frozen=True)
class FeaturesComputed:
    """Progress of computing the features of a frozen backbone, `done` of `images` images.

    The mirror images that a flip needs count as images.
    """

    done: int
    images: int
    seconds: float


@dataclass(frozen=True)
class Resumed:
    """Training continues from a checkpoint, after global step `step` in epoch `epoch`.

    `history` has the epochs that were finished before the checkpoint.
    """

    epoch: int
    step: int
    history: list[Epoch] = field(default_factory=list)


@dataclass(frozen=True)
class StepProgress:
    """Progress within an epoch, emitted about once a second.

    `step` is the global step. `fraction_done` refers to the whole training, `mean_loss` to the
    epoch so far. `images_per_s` counts the images of all ranks.
    """

    epoch: int
    step: int
    fraction_done: float
    mean_loss: float
    images_per_s: float
    seconds_left: float


@dataclass(frozen=True)
class EpochFinished:
    """An epoch was trained and validated.

    `images_per_s` counts the images of all ranks and the time of the training steps only.
    """

    row: Epoch
    images_per_s: float


@dataclass(frozen=True)
class StoppedEarly:
    """Early stopping ended the training after `epoch`."""

    epoch: int
    epochs_without_improvement: int


@dataclass(frozen=True)
class TrainingWarning:
    """A message for the user about something that does not end the training."""

    text: str


TrainingEvent = (
    PrecisionProbed
    | FeaturesComputed
    | Resumed
    | StepProgress
    | EpochFinished
    | StoppedEarly
    | TrainingWarning
)
