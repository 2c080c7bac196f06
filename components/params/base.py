"""What the sections have in common: kinds of values and their strictness."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


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
Stem = Literal["cifar", "imagenet"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


# Where images are: relative to the repository, or an address that fsspec knows. `dvc.yaml` takes its dependency from here.
Location = Annotated[str, StringConstraints(min_length=1)]
Column = Annotated[str, StringConstraints(min_length=1)]
