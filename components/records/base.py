"""Base class of all records."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from components.errors import UserError
from components.files import write_bytes

_SHOWN_FIELDS = 3


class Record(BaseModel):
    """A JSON file that one stage writes and others read. Equal content gives equal bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        write_bytes(path, (self.model_dump_json(indent=2) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and validate a record.

        Raises:
            UserError: the file is missing, or is not what this version of Kiln writes.
        """
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            raise UserError(
                f"{path} is missing; `dvc repro` makes it, `dvc pull` fetches it"
            ) from None
        return cls.from_json(text, str(path), "run `dvc repro`")

    @classmethod
    def from_json(cls, text: str | bytes, source: str, remedy: str) -> Self:
        """Return the record that a text holds.

        Args:
            text: JSON.
            source: Where the text is from, for the message.
            remedy: What to do if this version of Kiln cannot read it, for the message.

        Raises:
            UserError: The text is not what this version of Kiln writes.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UserError(f"{source} {_describe(cls.__name__, error)}; {remedy}") from None


def _describe(kind: str, error: ValidationError) -> str:
    """Return what is wrong with a text, without its values: they may hold anything."""
    details = error.errors(include_url=False, include_input=False)
    unknown = [_locate(detail) for detail in details if detail["type"] == "extra_forbidden"]
    missing = [_locate(detail) for detail in details if detail["type"] == "missing"]
    if unknown:
        fields = ", ".join(unknown[:_SHOWN_FIELDS])
        return f"was written by a newer Kiln: this one does not know its field {fields}"
    if len(missing) == len(details):
        fields = ", ".join(missing[:_SHOWN_FIELDS])
        return f"was written by an older Kiln: it lacks {fields}"
    reason = f"{_locate(details[0])}: {details[0]['msg']}"
    return f"is not a {kind} that this Kiln reads ({reason}): it was altered or is of a newer Kiln"


def _locate(detail: ErrorDetails) -> str:
    return repr(".".join(map(str, detail["loc"])) or "the whole")
