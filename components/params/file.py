"""`params.yaml` as a whole: its schema, its loader, and its values with the defaults filled in."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from components.errors import UserError
from components.params.augment import Augment
from components.params.base import Integer, Section
from components.params.evaluate import Evaluate, Promote, Register
from components.params.messages import find_errors
from components.params.preprocess import Preprocess
from components.params.train import Train

PARAMS_FILE = Path("params.yaml")


def add_params_option(parser: ArgumentParser) -> None:
    """Add the option `--params` of the stages: the file that they read their parameters from."""
    parser.add_argument(
        "--params", type=Path, default=PARAMS_FILE, help="parameter file (default: params.yaml)"
    )


class Params(Section):
    """All parameters."""

    seed: Annotated[Integer, Field(ge=0, lt=2**31)] = 0
    """Root seed of all random streams."""
    preprocess: Preprocess
    augment: Augment = Augment()
    train: Train
    register_: Annotated[Register, Field(alias="register")]
    evaluate: Evaluate = Evaluate()
    promote: Promote = Promote()

    def resolved(self) -> dict[str, Any]:
        """Return all parameters as plain values, with the defaults filled in.

        The result is itself valid content of a parameter file. Its recipes have the effective
        `global_batch_size` and `micro_batch_size`: the weights depend on these, and on
        `train.num_workers` and `train.global_batch_size` only through them.
        """
        values = self.model_dump(mode="json", by_alias=True)
        for model, recipe in values["train"]["models"].items():
            batch_size = self.train.global_batch_size_of(model)
            recipe["global_batch_size"] = batch_size
            recipe["micro_batch_size"] = batch_size // self.train.num_micro_batches(model)
        return values


class _Loader(yaml.SafeLoader):
    """YAML loader that lists keys written twice. PyYAML would silently take the last one."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[str] = []

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # PyYAML lets Python's own through, as for `2020-13-45`
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in keys:
                    line = key_node.start_mark.line + 1
                    self.duplicates.append(f"line {line}: the key {key_node.value!r} stands twice")
                keys.add(key_node.value)
        return super().construct_mapping(node, deep)


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check a parameter file.

    Raises:
        UserError: the file is missing or not YAML, or values are wrong. The message names all
            wrong values with their keys.
    """
    data, errors = _read_yaml(path)
    errors += find_errors(data, Params)
    if errors:
        heading = f"{path}: {len(errors)} error{'s' * (len(errors) > 1)}"
        raise UserError("\n".join([heading, *(f"  {line}" for line in errors)]))
    return Params.model_validate(data)


def _read_yaml(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the content of a parameter file, and an error for each key that stands twice."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        data = loader.get_single_data()
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the repository's root") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: not in UTF-8: byte 0x{error.object[error.start]:02X} in line {line:,}; "
            "save it as UTF-8"
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        hint = "; indent with blanks, not with tabs" if r"'\t'" in str(error) else ""
        raise UserError(f"{path}: not YAML: {error}{hint}") from None
    if data is None:
        raise UserError(
            f"{path}: the file is empty; `git checkout {path}` brings the last one back"
        )
    if not isinstance(data, dict):
        raise UserError(
            f"{path}: keys and values such as `seed: 0` are needed, found {type(data).__name__}"
        )
    return data, loader.duplicates
