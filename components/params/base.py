"""Value types and the base class that all sections of `params.yaml` share."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true/false")
    return value


Integer = Annotated[int, Field(strict=True)]
# PyYAML reads `1e-3` as a string, so `Number` takes strings too. Integers and booleans never do.
Number = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
Boolean = Annotated[bool, Field(strict=True)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
# Names become paths, stage names and tags.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
# A path relative to the repository, or a URI that fsspec can open. `dvc.yaml` interpolates it.
Location = Annotated[str, StringConstraints(min_length=1)]
Column = Annotated[str, StringConstraints(min_length=1)]
_CIFAR_RESNETS = ("resnet14", "resnet20", "resnet32", "resnet44", "resnet56")
_TORCHVISION_RESNETS = ("resnet18", "resnet34", "resnet50")
OWN_ARCHITECTURES = (
    "cnn",
    *_CIFAR_RESNETS,
    *_TORCHVISION_RESNETS,
    "mnist_cnn",
    "tutorial_cnn",
    "binary_cnn",
    "simple_cnn",
    "unpooled_cnn",
    "lstm",
    "attention",
)
"""Kiln's own networks. Libraries have the others, which `components.models.library` looks up."""
_ARCHITECTURE = re.compile(r"[a-z][a-z0-9_]*|timm/[A-Za-z0-9_.]+|[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _require_architecture(name: str) -> str:
    if not _ARCHITECTURE.fullmatch(name):
        raise ValueError(
            f"found {name!r}; known: {', '.join(OWN_ARCHITECTURES)}, networks of torchvision such "
            "as mobilenet_v3_small, timm/NAME, MODULE:FUNCTION"
        )
    return name


Architecture = Annotated[str, AfterValidator(_require_architecture)]
Stem = Literal["cifar", "half", "imagenet"]
# Stems of the architectures that have a choice.
STEMS: dict[str, tuple[Stem, ...]] = {
    **dict.fromkeys(_CIFAR_RESNETS, ("cifar", "half")),
    **dict.fromkeys(_TORCHVISION_RESNETS, ("cifar", "half", "imagenet")),
}
# Architectures whose number of channels can be chosen.
WIDTH_ARCHITECTURES = ("cnn", *_CIFAR_RESNETS, "lstm", "attention")
# Architectures with batch norm after every convolution, which Muon needs.
MUON_ARCHITECTURES = ("cnn", *STEMS, "attention")


class Section(BaseModel):
    """One section of `params.yaml`: it is immutable and refuses unknown keys.

    The docstrings of the fields are the reference of parameters that the user reads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
