"""Section `preprocess`: source of the images, limits on them, and their splits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.params.base import Boolean, Column, Fraction, Integer, Location, Number, Section


class IdxSource(Section):
    """The four files of the MNIST family, plain or gzipped, with their official test images."""

    kind: Literal["idx"]
    path: Location
    """Folder with the four files, and optionally `classes.txt` and `SHA256SUMS`."""


class ImageFolderSource(Section):
    """A directory per class, or the directories `train`, `val` and `test` (at least `train`) with a
    directory per class in each."""

    kind: Literal["image_folder"]
    path: Location
    """Folder, local or an fsspec URI, or a tar or zip archive of it."""


class CsvSource(Section):
    """A table of image paths and labels, with the images beside it."""

    kind: Literal["csv"]
    path: Location
    """Folder with the table and the images, local or an fsspec URI, or a tar or zip archive of
    it."""
    table: Column = "labels.csv"
    """Path of the table within the folder."""
    path_column: Column = "path"
    """Column with the paths of the images, relative to the folder."""
    label_column: Column = "label"
    """Column with the names of the classes."""
    split_column: Column | None = None
    """Column with `train`, `val` or `test`; rows where it is empty are drawn at random."""
    group_column: Column | None = None
    """Column with a group, such as a patient or a camera. All images of a group go into one
    split."""


class ParquetSource(Section):
    """Parquet files of encoded images (bytes, or Hugging Face's struct of bytes and path) or of
    arrays of unsigned bytes."""

    kind: Literal["parquet"]
    path: Location
    """A file, or a folder of `*.parquet`, local or an fsspec URI."""
    image_column: Column = "image"
    """Column with the bytes of an image file, or with arrays `(H, W)` or `(H, W, C)` as lists or a
    fixed-shape tensor."""
    label_column: Column = "label"
    """Column with the names or numbers of the classes."""
    split_column: Column | None = None
    """Column with `train`, `val` or `test`; rows where it is empty are drawn at random."""
    group_column: Column | None = None
    """Column with a group. All images of a group go into one split."""


class TorchvisionSource(Section):
    """A data set of torchvision with its official test images, downloaded into `path` if it is not
    there yet."""

    kind: Literal["torchvision"]
    path: Location
    """Folder that torchvision downloads into (`root`). It must exist before `dvc repro`."""
    dataset: Literal[
        "MNIST", "FashionMNIST", "KMNIST", "QMNIST", "USPS", "CIFAR10", "CIFAR100", "SVHN", "STL10"
    ]
    """Class name in `torchvision.datasets`."""


Source = Annotated[
    IdxSource | ImageFolderSource | CsvSource | ParquetSource | TorchvisionSource,
    Field(discriminator="kind"),
]
Format = Literal["jpeg", "png", "webp", "bmp", "tiff", "gif"]


class Limits(Section):
    """Limits on the cost of one image and of one archive. An image that exceeds them is
    quarantined; an archive is refused."""

    formats: Annotated[list[Format], Field(min_length=1)] = [
        "jpeg",
        "png",
        "webp",
        "bmp",
        "tiff",
        "gif",
    ]
    """Formats that are decoded. They are recognised by content, and the file extension must
    agree."""
    max_file_mb: Annotated[Integer, Field(ge=1, le=4096)] = 64
    """Largest image file, in MiB."""
    max_megapixels: Annotated[Integer, Field(ge=1, le=1000)] = 64
    """Largest number of pixels that an image header may announce, in millions."""
    decode_s: Annotated[Number, Field(gt=0, le=600)] = 20
    """Longest time for decoding one image, in seconds."""
    decode_mb: Annotated[Integer, Field(ge=64, le=65_536)] = 2048
    """Memory for decoding one image, in MiB."""
    strict_jpeg: Boolean = True
    """Refuse JPEG files that the decoder repairs but reports as corrupt: truncated and closed
    again, or damaged inside."""
    archive_files: Annotated[Integer, Field(ge=1)] = 5_000_000
    """Largest number of members of an archive."""
    archive_gb: Annotated[Number, Field(gt=0)] = 200
    """Largest size of an unpacked archive, in GiB."""
    archive_ratio: Annotated[Number, Field(ge=1)] = 100
    """Largest ratio of unpacked to packed bytes of an archive."""


class Preprocess(Section):
    """Section `preprocess`."""

    source: Source
    """Raw images."""
    image_size: Annotated[Integer, Field(ge=8, le=1024)] | None = None
    """Height and width, in pixels, to which the largest central square is scaled (antialiased).
    null keeps the images' own size."""
    channels: Literal[1, 3] | None = None
    """Channels of the prepared images: 1 is grey (ITU-R 601 luma), 3 is RGB. null is 3 for image
    files and keeps the channels of arrays."""
    background: Annotated[Integer, Field(ge=0, le=255)] = 255
    """Grey level behind transparent pixels."""
    val_fraction: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """Fraction of the images held out for validation, if the source does not define a validation
    split."""
    test_fraction: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """Fraction of the images held out for the test, if the source does not define a test split."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Treatment of further images with the same pixels in one split. Duplicates across splits that
    the source defines are an error."""
    near_duplicates: Literal["ignore", "report", "group"] = "report"
    """Treatment of images that look the same: `ignore` does not search for them, `report` lists
    them, `group` also keeps them in one split where splits are drawn at random."""
    near_distance: Annotated[Integer, Field(ge=0, le=7)] = 4
    """Largest number of differing bits, of 64, between the perceptual hashes of near-duplicates."""
    min_class_images: Annotated[Integer, Field(ge=1)] = 10
    """Number of training images of a class below which a warning names the class."""
    max_quarantined_fraction: Fraction = 0.01
    """Largest fraction of images that may be refused before the stage fails."""
    limits: Limits = Limits()
    """Limits on hostile files."""
    num_workers: Annotated[Integer, Field(ge=1, le=4096)] | None = None
    """Processes that decode images. null is one per core of the machine or cluster. The result does
    not depend on it."""
    shard_mb: Annotated[Integer, Field(ge=1, le=256)] = 32
    """Largest size of a shard before compression, in MiB."""

    @model_validator(mode="after")
    def _check_training_images_remain(self) -> Preprocess:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                "val_fraction and test_fraction leave nothing to train on; "
                "their sum must be below 1"
            )
        return self
