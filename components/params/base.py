"""Value types and the base class that all sections of `params.yaml` share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


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
Architecture = Literal["cnn", "resnet14", "resnet20", "resnet18", "resnet34", "resnet50"]
Stem = Literal["cifar", "half", "imagenet"]
# Stems of the architectures that have a choice.
STEMS: dict[str, tuple[Stem, ...]] = {
    "resnet14": ("cifar", "half"),
    "resnet20": ("cifar", "half"),
    "resnet18": ("cifar", "half", "imagenet"),
    "resnet34": ("cifar", "half", "imagenet"),
    "resnet50": ("cifar", "half", "imagenet"),
}
# Architectures whose first stage can have any number of channels.
WIDTH_ARCHITECTURES = ("cnn", "resnet14", "resnet20")


class Section(BaseModel):
    """One section of `params.yaml`: it is immutable and refuses unknown keys.

    The docstrings of the fields are the reference of parameters that the user reads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
