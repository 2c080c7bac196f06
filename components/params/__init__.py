"""The typed schema of `params.yaml`: every value that someone may tune, with its unit and its bounds.

Keys that the file leaves out take the defaults below. Anything misspelt, of a wrong type or out of bounds is
reported at once, all of it together, before any work starts.
"""

from components.params.augment import (
    Affine,
    Augment,
    AutoAugment,
    ColourJitter,
    Crop,
    Erasing,
    HorizontalFlip,
    OnlineAugment,
    Operation,
    RandAugment,
    ResizedCrop,
    Rotation,
    Shift,
    TrivialAugment,
    VerticalFlip,
)
from components.params.base import Architecture, Section
from components.params.evaluate import Evaluate, Gates, Promote, Register
from components.params.file import Params, load_params
from components.params.preprocess import (
    CsvSource,
    IdxSource,
    ImageFolderSource,
    Limits,
    ParquetSource,
    Preprocess,
    Source,
    TorchvisionSource,
)
from components.params.train import Checkpoint, EarlyStopping, Elastic, Loss, Recipe, Train

__all__ = [
    "Affine",
    "Architecture",
    "Augment",
    "AutoAugment",
    "Checkpoint",
    "ColourJitter",
    "Crop",
    "CsvSource",
    "EarlyStopping",
    "Elastic",
    "Erasing",
    "Evaluate",
    "Gates",
    "HorizontalFlip",
    "IdxSource",
    "ImageFolderSource",
    "Limits",
    "Loss",
    "OnlineAugment",
    "Operation",
    "Params",
    "ParquetSource",
    "Preprocess",
    "Promote",
    "RandAugment",
    "Recipe",
    "Register",
    "ResizedCrop",
    "Rotation",
    "Section",
    "Shift",
    "Source",
    "TorchvisionSource",
    "Train",
    "TrivialAugment",
    "VerticalFlip",
    "load_params",
]
