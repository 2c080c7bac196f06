"""One entry of `train.models`: an architecture and its training."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from components.params.augment import OnlineAugment
from components.params.base import (
    MUON_ARCHITECTURES,
    OWN_ARCHITECTURES,
    STEMS,
    WIDTH_ARCHITECTURES,
    Architecture,
    Boolean,
    Integer,
    Number,
    Section,
    Stem,
)
from components.params.init import InitSource
from components.params.named_recipes import RecipeName, expand
from components.params.optimization import (
    CosineSchedule,
    Optimizer,
    Schedule,
    SgdOptimizer,
    StepSchedule,
)
from components.params.preprocess import ImageSize


class Loss(Section):
    """The loss that training minimises."""

    name: Literal["cross_entropy", "focal"] = "cross_entropy"
    """`focal` reduces the weight of examples that are already classified well
    (arXiv:1708.02002)."""
    gamma: Annotated[Number, Field(ge=0, le=10)] = 2.0
    """Exponent of the focal loss; 0 is cross entropy."""
    class_weights: Literal["equal", "balanced"] = "equal"
    """`balanced` weights a class in inverse proportion to its number of training images, with a
    mean of 1 over the images."""


class Muon(Section):
    """Settings of the Muon optimiser, which trains the convolutions."""

    learning_rate: Annotated[Number, Field(gt=0, le=1)]
    """Peak learning rate of the convolutions: roughly the fraction by which a step changes their
    weights."""
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.6
    """Nesterov momentum of the convolutions."""


class EarlyStopping(Section):
    """Rule for ending training before the last epoch."""

    metric: Literal["val_top1", "val_loss"] = "val_top1"
    """Metric that has to improve. It also selects the best epoch, whose weights are kept."""
    patience: Annotated[Integer, Field(ge=1)]
    """Epochs without an improvement after which training stops."""
    min_delta: Annotated[Number, Field(ge=0)] = 0.0
    """Smallest change of the metric that counts as an improvement."""


class Recipe(Section):
    """One entry of `train.models`: an architecture and its training."""

    recipe: RecipeName | None = None
    """Recipe by name, which gives the keys below values that were measured
    (docs/how-to/recipes.md). Keys that are given as well win. null gives none: `architecture`,
    `epochs` and `learning_rate` are required then."""
    architecture: Architecture
    """Network: one of Kiln's own (`cnn`, `resnet14`, `resnet20`, `resnet32`, `resnet44`,
    `resnet56`, `resnet18`, `resnet34`, `resnet50`, `mnist_cnn`, `tutorial_cnn`, `binary_cnn`,
    `simple_cnn`, `unpooled_cnn`, `lstm`, `attention`), any classification network of
    torchvision by its name (`mobilenet_v3_small`), any of timm as `timm/NAME`, or a function of
    yours as `MODULE:FUNCTION`. Several entries may use the same one."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments for the builder of a network of torchvision, of timm or of your own, such as
    `{dropout: 0.2}` or `{img_size: 64}`."""
    init: Annotated[str, AfterValidator(lambda text: str(InitSource.parse(text)))] | None = None
    """Weights to start with. `pretrained` are those of torchvision or timm, from their caches or
    the network. A path or an `https://` URL is a file of weights: `weights.safetensors` of a model,
    another safetensors file, or a state dict; `#sha256=` and the file's digest after it accept no
    other content. `models:/NAME@ALIAS` and `models:/NAME/VERSION` are a registered model. The head
    is replaced where the classes differ, images are normalised as these weights need it, and every
    other difference is an error. null starts with random weights."""
    freeze_backbone: Boolean = False
    """Train the head alone, the last linear layer or convolution. Everything before it stays as
    `init` has it, batch-norm statistics too, and needs no gradients."""
    freeze_epochs: Annotated[Integer, Field(ge=0)] = 0
    """Epochs that train the head alone, as `freeze_backbone` does, before the others train all."""
    backbone_learning_rate: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Learning rate of everything before the head, as a factor of `learning_rate`."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Factor by which the learning rate falls from each layer to the one before it, from the head
    on (arXiv:2106.08254). A layer is a block of the network, such as a residual block. 0.75 is
    usual for vision transformers; 1 treats all layers alike."""
    width: Annotated[Integer, Field(ge=4, le=1024)] | None = None
    """Channels of the first stage (`cnn`, `resnet14` to `resnet56`), of the hidden state
    (`lstm`) or of a patch (`attention`); null is the architecture's default."""
    stem: Stem | Literal["auto"] = "auto"
    """First layers of the residual networks. `cifar` keeps the full size, for small images. `half`
    is a 4x4 convolution that halves height and width, at about a quarter of the computation.
    `imagenet` (`resnet18`, `resnet34` and `resnet50`) is torchvision's stem, which reduces them to
    a quarter, at about a fifteenth. `auto` is `imagenet` for images whose shorter side has more
    than 64 pixels, where the architecture has it, else `cifar`."""
    mirror: Boolean = False
    """Average the logits of an image and of its mirror image in validation, evaluation and serving.
    It improves accuracy where a mirrored object is as valid as the object, and doubles the
    computation."""
    epochs: Annotated[Integer, Field(ge=1, le=10_000)]
    """Passes over the augmented training split."""
    learning_rate: Annotated[Number, Field(gt=0)]
    """Peak learning rate, for `global_batch_size`. Adam and AdamW need about a hundredth of the
    rate of SGD."""
    optimizer: Optimizer = SgdOptimizer()
    """Rule by which gradients change the weights: `sgd`, `adam`, `adamw` or `rmsprop`, or a mapping
    with options, such as `{name: adamw, betas: [0.9, 0.95]}`."""
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    """Momentum of `sgd` (Nesterov's, unless `optimizer.nesterov` is false) and of `rmsprop`; 0 is
    none. `adam` and `adamw` have `betas` and refuse this key."""
    weight_decay: Annotated[Number, Field(ge=0)] = 5e-4
    """Weight decay, applied only to weights of two or more dimensions. It is an L2 penalty, and
    decoupled from the gradient for `adamw`, where 0.01 to 0.1 is usual."""
    l1_penalty: Annotated[Number, Field(ge=0)] = 0.0
    """L1 penalty of the weights that decay: factor of the sum of their magnitudes, whose gradient
    is added after `clip_gradient_norm`. The reported losses do not include it."""
    muon: Muon | None = None
    """Train the convolutions with Muon (https://kellerjordan.github.io/posts/muon), which takes
    orthogonal steps and applies no weight decay to them. `learning_rate`, `momentum`,
    `weight_decay` and `l1_penalty` then apply to all other weights only. Muon needs about half the
    epochs for the same accuracy. It trains `cnn`, the residual networks and `attention`, where
    batch norm follows every convolution, and goes with the optimizer `sgd`. null trains all weights
    with `optimizer`."""
    schedule: Schedule = CosineSchedule()
    """Learning rate over time: `cosine`, `one_cycle`, `step` or `constant`, or a mapping with
    options, such as `{name: step, milestones: [30, 60], gamma: 0.1}`."""
    warmup_epochs: Annotated[Number, Field(ge=0)] = 1.0
    """Epochs of linear warm-up to the peak learning rate. `one_cycle` has `pct_start` and refuses
    this key."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Probability mass that is spread over all classes (arXiv:1512.00567)."""
    global_batch_size: Annotated[Integer, Field(ge=1)] | None = None
    """Images per optimiser step for this entry; null is `train.global_batch_size`."""
    micro_batch_size: Annotated[Integer, Field(ge=1)] | None = None
    """Images per forward pass, over which batch norm normalises. The gradients of the micro-batches
    add up to that of the global batch. The weights are bit-identical for any number of workers with
    the same micro-batches. null is the global batch divided by the largest number of workers, or,
    where that is not given, by up to 8 (into micro-batches of at least 16 images)."""
    clip_gradient_norm: Annotated[Number, Field(gt=0)] | None = None
    """Largest Euclidean norm of the whole gradient (arXiv:1211.5063); null does not clip."""
    ema_decay: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average of the weights, which is then validated and
    kept instead of the weights themselves; null keeps no average."""
    early_stopping: EarlyStopping | None = None
    """Rule for ending training before the last epoch; null trains all epochs."""
    loss: Loss = Loss()
    """Loss that training minimises."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """`uniform` takes every image once per epoch. `balanced` takes every class equally often per
    epoch, and the images of a class in turn."""
    augment: OnlineAugment = OnlineAugment()
    """On-line augmentation."""
    train_size: ImageSize | None = None
    """Size in pixels of the images that the network is trained on: one number for squares, or
    `[height, width]`, up to the size of the prepared images. The first `resized_crop` of
    `augment.policy` returns images of this size; without one they are resized before the policy.
    Validation, evaluation and serving keep the size of the prepared images. null trains at that
    size."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, values: Any) -> Any:
        return expand(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check_consistency(self) -> Recipe:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs:g}, longer than epochs ({self.epochs})"
            )
        if self.width is not None and self.architecture not in WIDTH_ARCHITECTURES:
            raise ValueError(
                f"width cannot be chosen for {self.architecture}; leave it out{self._suggest()}"
            )
        if self.options and self.architecture in OWN_ARCHITECTURES:
            raise ValueError(
                f"{self.architecture} has no options; leave them out, or choose a network of "
                "torchvision, of timm or of your own"
            )
        if self.muon and self.architecture not in MUON_ARCHITECTURES:
            raise ValueError(
                f"muon cannot train {self.architecture}: it needs batch norm after every "
                f"convolution, as {', '.join(MUON_ARCHITECTURES)} have; leave it out"
                f"{self._suggest()}"
            )
        if self.freeze_backbone and self.init is None:
            raise ValueError("freeze_backbone needs init: random weights would stay random")
        if self.freeze_backbone and self.muon:
            raise ValueError("freeze_backbone leaves muon no convolution to train; choose one")
        self._check_fine_tuning()
        stems = STEMS.get(self.architecture, ())
        if self.stem != "auto" and self.stem not in stems:
            has = ", ".join(stems) or "no choice of stems"
            raise ValueError(
                f"stem {self.stem} cannot be chosen for {self.architecture}: it has {has}; "
                f"leave it out{self._suggest()}"
            )
        return self

    @model_validator(mode="after")
    def _check_optimization(self) -> Recipe:
        for key, reason in self._unused_keys().items():
            if key in self.model_fields_set:
                raise ValueError(f"{key} is {getattr(self, key):g}, and {reason}")
        if self.muon and self.optimizer.name != "sgd":
            raise ValueError(
                f"muon goes with the optimizer sgd only, not with {self.optimizer.name}; leave one "
                "of the two out"
            )
        problem = None
        if isinstance(self.schedule, StepSchedule):
            problem = self.schedule.find_problem(self.epochs)
        if problem:
            raise ValueError(problem)
        return self

    def _unused_keys(self) -> dict[str, str]:
        """Return the keys that the optimiser or the schedule does not use, with the reason."""
        unused = {}
        if self.optimizer.name in ("adam", "adamw"):
            unused["momentum"] = (
                f"{self.optimizer.name} does not use it; leave it out, or choose the betas of the "
                "optimizer"
            )
        if self.schedule.name == "one_cycle":
            unused["warmup_epochs"] = (
                "one_cycle does not use it; leave it out, or choose the pct_start of the schedule"
            )
        return unused

    @model_serializer(mode="wrap")
    def _leave_out_unused_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the recipe as values that are valid again: unused keys are refused if set."""
        unused = self._unused_keys()
        return {key: value for key, value in handler(self).items() if key not in unused}

    @property
    def train_sides(self) -> tuple[int, int] | None:
        """Height and width of `train_size`."""
        match self.train_size:
            case int(side):
                return side, side
            case sides:
                return sides

    def _check_fine_tuning(self) -> None:
        if self.layer_decay != 1 and self.muon:
            raise ValueError(
                "layer_decay does not reach the convolutions, which muon trains; choose one"
            )
        if not self.freeze_epochs:
            return
        if self.init is None:
            raise ValueError("freeze_epochs needs init: the head would fit random features")
        if self.freeze_backbone:
            raise ValueError(
                "with freeze_backbone the backbone is never trained, with freeze_epochs it is "
                "trained later; choose one"
            )
        if self.freeze_epochs >= self.epochs:
            raise ValueError(
                f"freeze_epochs is {self.freeze_epochs}, all of the epochs ({self.epochs}); lower "
                "it, or use freeze_backbone: true to train the head alone"
            )
        if self.early_stopping and self.early_stopping.patience < self.freeze_epochs:
            raise ValueError(
                f"early_stopping.patience is {self.early_stopping.patience}: training could end "
                f"within the freeze_epochs ({self.freeze_epochs}); raise it, or lower freeze_epochs"
            )

    def _suggest(self) -> str:
        """Return a hint for an architecture that is none of Kiln's own but nearly has its name."""
        if self.architecture in OWN_ARCHITECTURES:
            return ""
        near = difflib.get_close_matches(self.architecture, OWN_ARCHITECTURES)
        return f" (did you mean the architecture {' or '.join(near)}?)" if near else ""
