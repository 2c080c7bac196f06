"""Section `train`: recipes, and how a training is run and survives."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from components.params.augment import OnlineAugment
from components.params.base import Architecture, Flag, Name, Real, Section, Stem, Whole

# The architectures that come with either stem, and the longest shorter side, in pixels, for which `auto` takes `cifar`.
STEMMED = ("resnet18", "resnet34", "resnet50")
_SMALL = 64


class Loss(Section):
    name: Literal["cross_entropy", "focal"] = "cross_entropy"
    """`focal` gives less weight to what is already right (arXiv:1708.02002)."""
    gamma: Annotated[Real, Field(ge=0, le=10)] = 2.0
    """Exponent of the focal loss; 0 is cross entropy."""
    class_weights: Literal["equal", "balanced"] = "equal"
    """`balanced`: a class counts in inverse proportion to its training images, 1 on average over the images."""


class Muon(Section):
    learning_rate: Annotated[Real, Field(gt=0, le=1)]
    """Peak rate of the convolutions: about the share of their weights that a step changes."""
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.6
    """Nesterov momentum of the convolutions."""


class EarlyStopping(Section):
    metric: Literal["val_top1", "val_loss"] = "val_top1"
    """What has to improve; the best epoch, whose weights are kept, goes by it too."""
    patience: Annotated[Whole, Field(ge=1)]
    """Epochs without an improvement before training stops."""
    min_delta: Annotated[Real, Field(ge=0)] = 0.0
    """Smallest change that is an improvement."""


class Recipe(Section):
    """One entry of `train.models`: an architecture and how it is trained."""

    architecture: Architecture
    """Which network. Several entries may share one."""
    width: Annotated[Whole, Field(ge=4, le=1024)] | None = None
    """Channels of the first stage (`cnn`, `resnet20`); null takes the architecture's own."""
    stem: Stem | Literal["auto"] = "auto"
    """How `resnet18`, `resnet34` and `resnet50` begin. `imagenet`: as torchvision's, which go on with a quarter of the height
    and width; `cifar`: with all of it, for small images: some 15 times the work. `auto`: `cifar` up to 64 pixels on the
    shorter side."""
    mirror: Flag = False
    """Validated, evaluated and served is the mean of the logits of an image and its mirror image: better where a thing's
    mirror image is as good as the thing, and twice the work."""
    epochs: Annotated[Whole, Field(ge=1, le=10_000)]
    """Passes over the augmented training split."""
    learning_rate: Annotated[Real, Field(gt=0)]
    """Peak rate of SGD, for `global_batch_size`."""
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.9
    """Nesterov momentum; 0 is plain SGD."""
    weight_decay: Annotated[Real, Field(ge=0)] = 5e-4
    """L2 penalty, on weights of two or more dimensions only."""
    muon: Muon | None = None
    """Convolutions make orthogonal steps (Muon, https://kellerjordan.github.io/posts/muon) and are not decayed; what is above
    then holds for all other weights alone. About half the epochs for the same accuracy, where batch norm follows every
    convolution, as in all of these architectures. null: SGD for all."""
    warmup_epochs: Annotated[Real, Field(ge=0)] = 1.0
    """Epochs of linear warm-up to the peak; a cosine takes it to zero afterwards (arXiv:1608.03983)."""
    label_smoothing: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Probability mass spread over all classes (arXiv:1512.00567)."""
    global_batch_size: Annotated[Whole, Field(ge=1)] | None = None
    """Overrides `train.global_batch_size` for this entry."""
    micro_batch_size: Annotated[Whole, Field(ge=1)] | None = None
    """Images per forward pass, over which batch norm normalises; gradients add up to the global batch. null: the global
    batch over the most workers. Weights are the same to the bit for any number of workers with the same micro-batches."""
    clip_gradient_norm: Annotated[Real, Field(gt=0)] | None = None
    """Largest Euclidean norm of the whole gradient (arXiv:1211.5063); null does not clip."""
    ema_decay: Annotated[Real, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential average of the weights, which is then what is validated and kept; null: none."""
    early_stopping: EarlyStopping | None = None
    """When to stop before the last epoch; null trains all of them."""
    loss: Loss = Loss()
    """What is minimised."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """`balanced`: an epoch shows every class equally often, its images in turn; `uniform`: every image once."""
    augment: OnlineAugment = OnlineAugment()
    """On-line augmentation."""

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs:g}, longer than epochs ({self.epochs})")
        if self.width is not None and self.architecture not in ("cnn", "resnet20"):
            raise ValueError(f"width cannot be chosen for {self.architecture}; leave it out")
        if self.stem != "auto" and self.architecture not in STEMMED:
            raise ValueError(f"stem cannot be chosen for {self.architecture}, only for {', '.join(STEMMED)}; leave it out")
        return self

    def stem_for(self, height: int, width: int) -> Stem:
        """The stem for images of this size; `cifar` for architectures that have no choice."""
        if self.stem != "auto":
            return self.stem
        return "imagenet" if self.architecture in STEMMED and min(height, width) > _SMALL else "cifar"


class Elastic(Section):
    """Training starts with as many workers as there is room for, goes on with fewer and takes more when it can."""

    min: Annotated[Whole, Field(ge=1, le=4096)]
    """Fewest workers to train with."""
    max: Annotated[Whole, Field(ge=1, le=4096)]
    """Most workers to train with."""

    @model_validator(mode="after")
    def _ordered(self) -> Elastic:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, more than max ({self.max})")
        return self


def _as_range(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return {"min": value, "max": value}
    if not isinstance(value, dict | Elastic):
        raise ValueError(f"found {value!r}; a whole number from 1, or {{min: 1, max: 4}}, is needed")
    return value


class Checkpoint(Section):
    """When the state of a training is saved, besides the end of each epoch. It is removed once training has succeeded."""

    every_seconds: Annotated[Real, Field(gt=0)] | None = 60
    """Seconds between checkpoints; null: no limit."""
    every_steps: Annotated[Whole, Field(ge=1)] | None = None
    """Steps between checkpoints; null: no limit."""
    keep: Annotated[Whole, Field(ge=1, le=100)] = 2
    """How many of the newest are kept; each holds the best epoch's weights too."""


class Train(Section):
    num_workers: Annotated[Elastic, BeforeValidator(_as_range)] = Elastic(min=2, max=2)
    """Data-parallel processes: one number, or `{min: 1, max: 4}` for as many as there is room for at the moment."""
    cpus_per_worker: Annotated[Real, Field(gt=0, le=512)] = 1
    """CPU cores, and so threads, of each worker; below 1, several workers share a core (a thread each)."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: one GPU per worker (nccl) where the cluster has enough of them, else CPU (gloo)."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bfloat16 where a short probe finds it clearly faster and in agreement with fp32. `fp16` scales its loss and
    needs a GPU."""
    global_batch_size: Annotated[Whole, Field(ge=1)] = 256
    """Images that one step of the optimiser sees, over all workers; must divide by the most of `num_workers`."""
    max_failures: Annotated[Whole, Field(ge=0, le=100)] = 5
    """How often the worker group is started again after a worker died; it continues from the newest checkpoint."""
    images: Literal["auto", "memory", "disk"] = "auto"
    """Where each worker has its images while it trains: decoded in memory, or in one file of its node's disk, of which a batch
    is read while the one before it is computed with. `auto`: in memory if they take no more than a quarter of what is free."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpoints."""
    watchdog_s: Annotated[Real, Field(ge=5)] = 300
    """Seconds without a step after which a worker writes down its stacks and dies, to be started again."""
    start_timeout_s: Annotated[Real, Field(ge=5)] = 300
    """Seconds that the worker group may take to start, at first or again, before training is given up."""
    models: Annotated[dict[Name, Recipe], Field(min_length=1)]
    """What is trained: a name and its recipe. Each is one stage `train@name`."""

    @property
    def workers(self) -> tuple[int, int]:
        """The fewest and the most workers."""
        return self.num_workers.min, self.num_workers.max

    def batch_size(self, model: str) -> int:
        """Global batch size of one entry of `models`."""
        return self.models[model].global_batch_size or self.global_batch_size

    def micro_batches(self, model: str) -> int:
        """Into how many parts a global batch is cut."""
        size = self.models[model].micro_batch_size
        return self.batch_size(model) // size if size else self.workers[1]

    @model_validator(mode="after")
    def _batches_divide(self) -> Train:
        wrong: dict[str, list[str]] = {}
        most = self.workers[1]
        for name, recipe in self.models.items():
            batch, size = self.batch_size(name), recipe.micro_batch_size
            text = None
            if size is None and batch % most:
                below = batch // most * most
                near = " or ".join(str(n) for n in (below, below + most) if n)
                text = f"global_batch_size is {batch}, which num_workers ({most}) does not divide; the nearest that it does: "
                text += near
            elif size is not None and batch % size:
                text = f"micro_batch_size is {size}, which does not divide the global_batch_size of {batch}"
            elif size is not None and batch // size < most:
                text = f"micro_batch_size is {size}: {batch // size} in a global batch of {batch}, too few for {most} workers"
            if text:
                wrong.setdefault(text, []).append(name)
        if wrong:
            raise ValueError("; ".join(f"{text} (for {', '.join(names)})" for text, names in wrong.items()))
        return self
