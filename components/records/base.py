"""Base class of all records."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import UserError
from components.files import write_bytes


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
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise UserError(
                f"{path} is missing; `dvc repro` makes it, `dvc pull` fetches it"
            ) from None
        except ValidationError as error:
            raise UserError(
                f"{path} is not a {cls.__name__} of this version of Kiln: {error}; run `dvc repro`"
            ) from None
