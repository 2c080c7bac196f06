"""Section `preprocess`: where images come from, what is refused, how they are split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.params.base import Column, Flag, Location, Real, Section, Share, Whole


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
