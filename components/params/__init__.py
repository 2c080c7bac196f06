"""Typed schema of `params.yaml`: every parameter with its unit and bounds.

A key that the file leaves out takes its default. Misspelt keys, wrong types and values out of
bounds are reported together, before any work starts.
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
from components.params.file import PARAMS_FILE, Params, add_params_option, load_params
from components.params.optimization import (
    AdamOptimizer,
    AdamWOptimizer,
    ConstantSchedule,
    CosineSchedule,
    OneCycleSchedule,
    RmsPropOptimizer,
    SgdOptimizer,
    StepSchedule,
)
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
from components.params.recipe import EarlyStopping, Loss, Muon, Recipe
from components.params.train import Checkpoint, Reduction, Train, WorkerRange

__all__ = [
    "PARAMS_FILE",
    "AdamOptimizer",
    "AdamWOptimizer",
    "Affine",
    "Architecture",
    "Augment",
    "AutoAugment",
    "Checkpoint",
    "ColourJitter",
    "ConstantSchedule",
    "CosineSchedule",
    "Crop",
    "CsvSource",
    "EarlyStopping",
    "Erasing",
    "Evaluate",
    "Gates",
    "HorizontalFlip",
    "IdxSource",
    "ImageFolderSource",
    "Limits",
    "Loss",
    "Muon",
    "OneCycleSchedule",
    "OnlineAugment",
    "Operation",
    "Params",
    "ParquetSource",
    "Preprocess",
    "Promote",
    "RandAugment",
    "Recipe",
    "Reduction",
    "Register",
    "ResizedCrop",
    "RmsPropOptimizer",
    "Rotation",
    "Section",
    "SgdOptimizer",
    "Shift",
    "Source",
    "StepSchedule",
    "TorchvisionSource",
    "Train",
    "TrivialAugment",
    "VerticalFlip",
    "WorkerRange",
    "add_params_option",
    "load_params",
]
