"""Section `preprocess`: source of the images, limits on them, and their splits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from components.params.base import Boolean, Column, Fraction, Integer, Location, Number, Section


def _check_encoding(name: str) -> str:
    try:
        "a".encode(name)
    except (LookupError, ValueError):
        raise ValueError(
            f"found {name!r}, which is not a text encoding of Python; utf-8, cp1252 (Windows), "
            "mac-roman, gb18030 and shift-jis are some"
        ) from None
    return name


def _check_label_columns(value: Any) -> Any:
    names = value if isinstance(value, list) and len(value) > 1 else [None]
    if value not in ("auto", None) and not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"found {value!r}; auto, or a list of two or more columns, is needed "
            '(names that are numbers in quotes: ["0", "1"])'
        )
    return value


def _to_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _check_inside(name: str) -> str:
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        raise ValueError(f"found {name!r}; a path within preprocess.source.path is needed")
    return name


TextEncoding = Annotated[Column, AfterValidator(_check_encoding)]


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
    merge_subfolders: Boolean = False
    """Accept subfolders of class folders that may be classes themselves: all images below a class
    folder belong to it. With false, such folders are an error that names the likely classes."""


class CsvSource(Section):
    """A table of image paths and labels, with the images beside it: CSV (with commas, semicolons,
    tabs or bars), Excel, JSON lines, or a JSON array of objects; text may be gzipped."""

    kind: Literal["csv"]
    path: Location
    """Folder with the table and the images, local or an fsspec URI, or a tar or zip archive of
    it."""
    table: Annotated[Column, AfterValidator(_check_inside)] = "labels.csv"
    """Path of the table within the folder. `.xlsx` is read as Excel, `.json`, `.jsonl` and
    `.ndjson` as JSON, any other as CSV, whose separator is recognised from the first line."""
    sheet: Column | None = None
    """Name of the sheet of an Excel table; null is the first."""
    encoding: TextEncoding | None = None
    """Encoding of a text table, such as `cp1252`; null is UTF-8. A byte order mark comes first."""
    path_column: Column = "path"
    """Column with the paths of the images, or with names or ids without an extension. Names of
    columns are compared without surrounding blanks, and without case if none is the same."""
    path_prefix: Column | None = None
    """Leading folders that are removed from the paths in the table, such as `/kaggle/input/x` or
    `C:\\data`."""
    image_folder: Annotated[
        list[Annotated[Column, AfterValidator(_check_inside)]] | None, BeforeValidator(_to_list)
    ] = None
    """Folder in which the paths start, or a list of folders, relative to `path`; null is `path`
    itself."""
    label_column: Column = "label"
    """Column with the names of the classes."""
    label_columns: Annotated[
        Literal["auto"] | list[Column] | None, BeforeValidator(_check_label_columns)
    ] = None
    """Columns of 0 and 1, one per class, in place of `label_column`; exactly one of them is 1 in
    each row. `auto` is every column that is not named by another key."""
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
Format = Literal["jpeg", "png", "webp", "bmp", "tiff", "gif", "avif", "heif"]
_SIDES = range(8, 1025)


def _check_image_size(value: Any) -> Any:
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if any(type(side) is not int or side not in _SIDES for side in sides):
        raise ValueError(
            "one side of a square or [height, width] is needed, "
            f"in whole pixels from {_SIDES[0]} to {_SIDES[-1]} (found {value!r})"
        )
    return value


ImageSize = Annotated[int | tuple[int, int], BeforeValidator(_check_image_size)]


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
        "avif",
        "heif",
    ]
    """Formats that are decoded. They are recognised by content, and the file extension must
    agree. `heif` is HEIC too, the format of phones."""
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
    image_size: ImageSize | None = None
    """Size of the prepared images in pixels, 8 to 1024: one number for squares, or `[height,
    width]`. null keeps the images' own size, which must be the same for all."""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """Treatment of pictures whose aspect ratio is not that of `image_size`: `crop` scales the
    largest central box that has it and cuts the rest, `pad` scales the whole picture to fit and
    fills the rest with `background`, `stretch` scales height and width independently. All are
    bilinear and antialiased."""
    channels: Literal[1, 3] | None = None
    """Channels of the prepared images: 1 is grey (ITU-R 601 luma), 3 is RGB. null is 3 for image
    files and keeps the channels of arrays."""
    background: Annotated[Integer, Field(ge=0, le=255)] = 255
    """Grey level behind transparent pixels, and around pictures with `resize: pad`."""
    val_fraction: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """Fraction of the images of each class held out for validation, if the source does not define a
    validation split."""
    test_fraction: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """Fraction of the images of each class held out for the test, if the source does not define a
    test split."""
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

    @property
    def target_size(self) -> tuple[int, int] | None:
        """Height and width of the prepared images; None keeps the images' own."""
        match self.image_size:
            case int(side):
                return side, side
            case size:
                return size

    @model_validator(mode="after")
    def _check_training_images_remain(self) -> Preprocess:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                "val_fraction and test_fraction leave nothing to train on; "
                "their sum must be below 1"
            )
        return self
