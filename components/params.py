"""The typed schema of `params.yaml`: every value that someone may tune, with its unit and its bounds.

Keys that the file leaves out take the defaults below. Anything misspelt, of a wrong type or out of bounds is
reported at once, all of it together, before any work starts.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from components.errors import UserError


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true/false")
    return value


# PyYAML reads `1e-3` as a string, so real numbers are taken from strings too; whole numbers and booleans never are.
Whole = Annotated[int, Field(strict=True)]
Real = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Share = Annotated[Real, Field(ge=0, le=1)]
# Names become paths, stage names and tags.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Architecture = Literal["cnn", "resnet20", "resnet18", "resnet34", "resnet50"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


# Where images are: relative to the repository, or an address that fsspec knows. `dvc.yaml` takes its dependency from here.
Location = Annotated[str, StringConstraints(min_length=1)]
Column = Annotated[str, StringConstraints(min_length=1)]


class IdxSource(Section):
    """The MNIST family's four files, plain or gzipped, with their official test images."""

    kind: Literal["idx"]
    path: Location
    """Folder with the four files, and `classes.txt` and `SHA256SUMS` if there are such."""


class ImageFolderSource(Section):
    """A directory per class, or `train`, `val` and `test` directories (`train` at least) with a directory per class in each."""

    kind: Literal["image_folder"]
    path: Location
    """The folder, local or of fsspec, or a tar or zip archive of it."""


class CsvSource(Section):
    """A table of paths and labels beside the images."""

    kind: Literal["csv"]
    path: Location
    """The folder that has the table and the images, local or of fsspec, or a tar or zip archive of it."""
    table: Column = "labels.csv"
    """The table's path in that folder."""
    path_column: Column = "path"
    """Paths of images, relative to the folder."""
    label_column: Column = "label"
    """Names of classes."""
    split_column: Column | None = None
    """`train`, `val`, `test`, or empty for those that are to be drawn."""
    group_column: Column | None = None
    """Images of one group (a patient, a camera) stay in one split."""


class ParquetSource(Section):
    """Parquet files of encoded images (bytes, or Hugging Face's struct of bytes and path) or arrays of unsigned bytes."""

    kind: Literal["parquet"]
    path: Location
    """A file or a folder of `*.parquet`, local or of fsspec."""
    image_column: Column = "image"
    """Bytes of an image file, or `(H, W)` or `(H, W, C)` as lists or a fixed-shape tensor."""
    label_column: Column = "label"
    """Names or numbers of classes."""
    split_column: Column | None = None
    """`train`, `val`, `test`, or empty for those that are to be drawn."""
    group_column: Column | None = None
    """Images of one group stay in one split."""


class TorchvisionSource(Section):
    """One of torchvision's data sets, downloaded into `path` if it is not there yet, with its official test images."""

    kind: Literal["torchvision"]
    path: Location
    """Folder that torchvision downloads into (`root`); it must exist before `dvc repro`."""
    dataset: Literal["MNIST", "FashionMNIST", "KMNIST", "QMNIST", "USPS", "CIFAR10", "CIFAR100", "SVHN", "STL10"]
    """Its name in `torchvision.datasets`."""


Source = Annotated[IdxSource | ImageFolderSource | CsvSource | ParquetSource | TorchvisionSource, Field(discriminator="kind")]
Format = Literal["jpeg", "png", "webp", "bmp", "tiff", "gif"]


class Limits(Section):
    """What one image, and one archive, may cost. An image beyond them is quarantined, an archive refused."""

    formats: Annotated[list[Format], Field(min_length=1)] = ["jpeg", "png", "webp", "bmp", "tiff", "gif"]
    """Formats that are decoded; told by content, and the extension must agree."""
    max_file_mb: Annotated[Whole, Field(ge=1, le=4096)] = 64
    """Largest image file, in MiB."""
    max_megapixels: Annotated[Whole, Field(ge=1, le=1000)] = 64
    """Most pixels that a header may announce, in millions."""
    decode_s: Annotated[Real, Field(gt=0, le=600)] = 20
    """Seconds that decoding one image may take."""
    decode_mb: Annotated[Whole, Field(ge=64, le=65_536)] = 2048
    """Memory for decoding one image, in MiB."""
    strict_jpeg: Flag = True
    """Refuse JPEG files that the decoder can guess but calls corrupt: cut short and closed again, or damaged within."""
    archive_files: Annotated[Whole, Field(ge=1)] = 5_000_000
    """Most members of an archive."""
    archive_gb: Annotated[Real, Field(gt=0)] = 200
    """Most bytes of an unpacked archive, in GiB."""
    archive_ratio: Annotated[Real, Field(ge=1)] = 100
    """Most unpacked bytes per packed byte."""


class Preprocess(Section):
    source: Source
    """Where the raw images are."""
    image_size: Annotated[Whole, Field(ge=8, le=1024)] | None = None
    """Height and width in pixels to which the largest central square is scaled (antialiased); null keeps images as they are."""
    channels: Literal[1, 3] | None = None
    """1 is grey (ITU-R 601 luma), 3 is RGB; null is 3 for image files and keeps what arrays have."""
    background: Annotated[Whole, Field(ge=0, le=255)] = 255
    """Grey level that shows through transparency."""
    val_fraction: Annotated[Real, Field(gt=0, lt=1)] = 0.1
    """Share held out for validation, if the source does not say itself what is."""
    test_fraction: Annotated[Real, Field(gt=0, lt=1)] = 0.1
    """Share held out for the test, if the source does not say itself what is."""
    duplicates: Literal["drop", "keep"] = "drop"
    """What becomes of further images with the same pixels in one split; across given splits they are an error."""
    near_duplicates: Literal["ignore", "report", "group"] = "report"
    """Images that look the same: not looked for, told, or kept in one split where splits are drawn."""
    near_distance: Annotated[Whole, Field(ge=0, le=7)] = 4
    """Bits of 64 in which the perceptual hashes of near-duplicates may differ."""
    min_class_images: Annotated[Whole, Field(ge=1)] = 10
    """Classes with fewer training images are named."""
    max_quarantined_fraction: Share = 0.01
    """Share of images that may be refused before the stage fails."""
    limits: Limits = Limits()
    """Bounds on hostile files."""
    num_workers: Annotated[Whole, Field(ge=1, le=4096)] | None = None
    """Processes that decode; null is one per core of the machine or cluster. The result does not depend on it."""
    shard_mb: Annotated[Whole, Field(ge=1, le=256)] = 32
    """Decoded megabytes per shard."""

    @model_validator(mode="after")
    def _something_is_left(self) -> Preprocess:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing to train on; their sum must be below 1")
        return self


def _refuse_disorder(name: str, pair: tuple[float, float]) -> None:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError(f"{name} is {list(pair)}; it goes from small to large, both above 0")


class HorizontalFlip(Section):
    name: Literal["horizontal_flip"]
    p: Share = 0.5
    """Probability."""


class VerticalFlip(Section):
    name: Literal["vertical_flip"]
    p: Share = 0.5
    """Probability."""


class Crop(Section):
    name: Literal["crop"]
    padding: Annotated[Whole, Field(ge=1, le=64)]
    """Zero pixels added on each side before a window of the original size is cut out."""


class ResizedCrop(Section):
    name: Literal["resized_crop"]
    scale: tuple[Share, Share] = (0.5, 1.0)
    """Smallest and largest share of the area that is cut out and scaled to the whole."""
    ratio: tuple[Real, Real] = (0.75, 1.333)
    """Least and most width per height of what is cut out."""

    @model_validator(mode="after")
    def _ordered(self) -> ResizedCrop:
        _refuse_disorder("scale", self.scale)
        _refuse_disorder("ratio", self.ratio)
        return self


class Affine(Section):
    name: Literal["affine"]
    degrees: Annotated[Real, Field(ge=0, le=180)] = 0.0
    """Largest angle in either direction."""
    translate: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Largest move in either direction, as a share of the side."""
    scale: tuple[Real, Real] = (1.0, 1.0)
    """Smallest and largest factor."""
    shear: Annotated[Real, Field(ge=0, lt=90)] = 0.0
    """Largest angle of shearing, in degrees."""

    @model_validator(mode="after")
    def _ordered(self) -> Affine:
        _refuse_disorder("scale", self.scale)
        return self


class ColourJitter(Section):
    name: Literal["colour_jitter"]
    brightness: Annotated[Real, Field(ge=0, le=1)] = 0.0
    """Largest change in either direction, as a share."""
    contrast: Annotated[Real, Field(ge=0, le=1)] = 0.0
    """Largest change in either direction, as a share."""
    saturation: Annotated[Real, Field(ge=0, le=1)] = 0.0
    """Largest change in either direction, as a share; grey images have none."""
    hue: Annotated[Real, Field(ge=0, le=0.5)] = 0.0
    """Largest turn of the colour circle in either direction, as a share of it; grey images have none."""


class RandAugment(Section):
    name: Literal["rand_augment"]
    operations: Annotated[Whole, Field(ge=1, le=14)] = 2
    """How many of its 14 operations are applied, one after the other (arXiv:1909.13719)."""
    magnitude: Annotated[Whole, Field(ge=0, le=30)] = 9
    """How strongly, of 31 levels."""


class TrivialAugment(Section):
    """One operation of any strength (arXiv:2103.10158)."""

    name: Literal["trivial_augment"]


class AutoAugment(Section):
    name: Literal["auto_augment"]
    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    """The data set that the policy was found for (arXiv:1805.09501)."""


class Shift(Section):
    name: Literal["shift"]
    fraction: Annotated[Real, Field(gt=0, lt=1)]
    """Largest move in either direction, as a share of the side."""


class Rotation(Section):
    name: Literal["rotation"]
    degrees: Annotated[Real, Field(gt=0, le=180)]
    """Largest angle in either direction."""


class Erasing(Section):
    name: Literal["erasing"]
    p: Share = 0.5
    """Probability."""
    scale: tuple[Share, Share] = (0.02, 0.2)
    """Smallest and largest erased share of the area (arXiv:1708.04896)."""

    @model_validator(mode="after")
    def _ordered(self) -> Erasing:
        _refuse_disorder("scale", self.scale)
        return self


Operation = Annotated[
    HorizontalFlip
    | VerticalFlip
    | Crop
    | ResizedCrop
    | Shift
    | Affine
    | Rotation
    | ColourJitter
    | Erasing
    | RandAugment
    | TrivialAugment
    | AutoAugment,
    Field(discriminator="name"),
]


class Augment(Section):
    copies: Annotated[Whole, Field(ge=0, le=100)] = 0
    """Augmented copies of each training image, beside the original."""
    balance: Flag = False
    """Give smaller classes more copies, until each has as many images as the largest."""
    policy: list[Operation] = []
    """What happens to a copy, in this order."""

    @model_validator(mode="after")
    def _copies_differ(self) -> Augment:
        if (self.copies or self.balance) and not self.policy:
            raise ValueError("policy is empty, so that copies would be duplicates; name an operation or set copies: 0")
        return self


class OnlineAugment(Section):
    """Drawn anew for each image and epoch, on the worker."""

    flip: Share = 0.0
    """Probability of a horizontal flip."""
    crop_padding: Annotated[Whole, Field(ge=0, le=64)] = 0
    """Zero pixels on each side for a random crop; 0 switches it off."""
    erase: Annotated[Whole, Field(ge=0, le=512)] = 0
    """Side in pixels of one square set to the channel mean (Cutout, arXiv:1708.04552); 0 switches it off."""
    mixup: Annotated[Real, Field(ge=0)] = 0.0
    """alpha of MixUp (arXiv:1710.09412): images and labels of a micro-batch are averaged in pairs; 0 switches it off."""
    cutmix: Annotated[Real, Field(ge=0)] = 0.0
    """alpha of CutMix (arXiv:1905.04899): a box of one image is pasted into another. With `mixup` too, either is drawn."""


class Loss(Section):
    name: Literal["cross_entropy", "focal"] = "cross_entropy"
    """`focal` gives less weight to what is already right (arXiv:1708.02002)."""
    gamma: Annotated[Real, Field(ge=0, le=10)] = 2.0
    """Exponent of the focal loss; 0 is cross entropy."""
    class_weights: Literal["equal", "balanced"] = "equal"
    """`balanced`: a class counts in inverse proportion to its training images, 1 on average over the images."""


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
    epochs: Annotated[Whole, Field(ge=1, le=10_000)]
    """Passes over the augmented training split."""
    learning_rate: Annotated[Real, Field(gt=0)]
    """Peak rate of SGD, for `global_batch_size`."""
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.9
    """Nesterov momentum; 0 is plain SGD."""
    weight_decay: Annotated[Real, Field(ge=0)] = 5e-4
    """L2 penalty, on weights of two or more dimensions only."""
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
        return self


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


class Register(Section):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$")]
    """Registered model: one per task, of which each trained model is a version."""


class Gates(Section):
    """Floors and ceilings on the test split that a version must meet to be promoted; null switches one off."""

    min_top1: Share | None = None
    """Least share of images whose most probable class is right."""
    min_class_recall: Share | None = None
    """Least recall of the worst class."""
    max_ece: Share | None = None
    """Largest expected calibration error (15 equal bins, arXiv:1706.04599)."""


class Evaluate(Section):
    num_workers: Annotated[Whole, Field(ge=1, le=4096)] = 1
    """Processes that share the test split, in turns if they are more than the cores; the metrics do not depend on it."""
    batch_size: Annotated[Whole, Field(ge=2, le=65_536)] = 500
    """Images per forward pass."""
    top_k: Annotated[Whole, Field(ge=2)] = 5
    """k of the top-k accuracy."""
    gates: Gates = Gates()
    """What a version must meet."""


class Promote(Section):
    alias: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] = "champion"
    """The alias that `promote` moves unless told otherwise, and whose holder a candidate must not be worse than."""
    metric: Annotated[str, StringConstraints(min_length=1)] = "top1"
    """What `promote --best` goes by, of those in `reports/metrics.json`; of `nll` and `ece` less is better."""
    max_regression: Share = 0.005
    """Top-1 that may be lost: a candidate passes if even the low end of the paired 95 % interval does not lose more."""


class Params(Section):
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    """Root of every random stream."""
    preprocess: Preprocess
    augment: Augment = Augment()
    train: Train
    register_: Annotated[Register, Field(alias="register")]
    evaluate: Evaluate = Evaluate()
    promote: Promote = Promote()


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice, which PyYAML would settle silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise UserError(f"params.yaml line {key_node.start_mark.line + 1}: the key {key!r} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_params(path: str | Path = "params.yaml") -> Params:
    """Reads and checks a parameter file.

    Raises:
        UserError: the file is missing or not YAML, or values are wrong: all of them in one message, each with its path.
    """
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the repository's root") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a mapping is needed, found {type(data).__name__}")
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        lines = [f"  {line}" for line in _describe(error)]
        raise UserError("\n".join([f"{path}: {len(lines)} error{'s' * (len(lines) > 1)}", *lines])) from None


def _describe(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        where, known = _locate(item["loc"])
        message, given = item["msg"].removeprefix("Value error, "), item["input"]
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            message = f"no such key; {f'did you mean {near[0]}? ' if near else ''}known: {', '.join(known)}"
        elif item["type"] == "missing":
            message = "missing"
        elif item["type"] == "literal_error":
            message = f"found {given!r}; known: {item['ctx']['expected'].replace(' or ', ', ')}"
        elif item["type"] == "union_tag_invalid":
            message = f"found {item['ctx']['tag']!r}; known: {item['ctx']['expected_tags']}"
        elif item["type"] == "union_tag_not_found":
            message = f"{item['ctx']['discriminator'].strip(chr(39))} is missing"
        elif item["type"] != "value_error":
            message = f"{message[:1].lower()}{message[1:]} (found {given!r})"
        lines.append(f"{where}: {message}")
    return lines


def _locate(loc: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """The dotted path of an error, without the tags that pydantic puts in for a union's member, and the keys known there."""
    kind: Any = Params
    path, known = [], []
    for part in loc:
        while get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        tagged = [member for member in get_args(kind) if part in _tags(member)]
        if tagged:
            kind = tagged[0]
            continue
        path.append(str(part))
        if isinstance(kind, type) and issubclass(kind, Section):
            fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
            known, kind = list(fields), fields.get(str(part))
        elif get_origin(kind) in (dict, list):
            kind = get_args(kind)[-1]
    return ".".join(path) or "the file", known


def _tags(member: Any) -> tuple[str, ...]:
    fields = getattr(member, "model_fields", {})
    field = fields.get("name") or fields.get("kind")
    return get_args(field.annotation) if field else ()
