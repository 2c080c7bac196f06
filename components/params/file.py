"""`params.yaml` as a whole, read and checked."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import Field, ValidationError

from components.errors import UserError
from components.params.augment import Augment
from components.params.base import Section, Whole
from components.params.evaluate import Evaluate, Promote, Register
from components.params.preprocess import Preprocess
from components.params.train import Train


class Params(Section):
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    """Root of every random stream."""
    preprocess: Preprocess
    augment: Augment = Augment()
    train: Train
    register_: Annotated[Register, Field(alias="register")]
    evaluate: Evaluate = Evaluate()
    promote: Promote = Promote()

    def resolved(self) -> dict[str, Any]:
        """Return all parameters as plain values, with the defaults filled in.

        Of a model's batch it has the effective `global_batch_size` and, instead of
        `micro_batch_size`, the number of `micro_batches`. The weights depend on these, and not
        on the number of workers that they may be derived from. `train.model_names` lists the
        models.
        """
        values = self.model_dump(mode="json", by_alias=True)
        for name, recipe in values["train"]["models"].items():
            del recipe["micro_batch_size"]
            recipe["global_batch_size"] = self.train.batch_size(name)
            recipe["micro_batches"] = self.train.micro_batches(name)
        values["train"]["model_names"] = list(self.train.models)
        return values


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice, which PyYAML would settle silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise UserError(f"params.yaml line {key_node.start_mark.line + 1}: the key {key!r} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_params(path: str | Path = "params.yaml") -> Params:
    """Reads and checks a parameter file.

    Raises:
        UserError: the file is missing or not YAML, or values are wrong: all of them in one message, each with its path.
    """
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the repository's root") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a mapping is needed, found {type(data).__name__}")
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        lines = [f"  {line}" for line in _describe(error)]
        raise UserError("\n".join([f"{path}: {len(lines)} error{'s' * (len(lines) > 1)}", *lines])) from None


def _describe(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        where, known = _locate(item["loc"])
        message, given = item["msg"].removeprefix("Value error, "), item["input"]
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            message = f"no such key; {f'did you mean {near[0]}? ' if near else ''}known: {', '.join(known)}"
        elif item["type"] == "missing":
            message = "missing"
        elif item["type"] == "literal_error":
            message = f"found {given!r}; known: {item['ctx']['expected'].replace(' or ', ', ')}"
        elif item["type"] == "union_tag_invalid":
            message = f"found {item['ctx']['tag']!r}; known: {item['ctx']['expected_tags']}"
        elif item["type"] == "union_tag_not_found":
            message = f"{item['ctx']['discriminator'].strip(chr(39))} is missing"
        elif item["type"] != "value_error":
            message = f"{message[:1].lower()}{message[1:]} (found {given!r})"
        lines.append(f"{where}: {message}")
    return lines


def _locate(loc: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """The dotted path of an error, without the tags that pydantic puts in for a union's member, and the keys known there."""
    kind: Any = Params
    path, known = [], []
    for part in loc:
        while get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        tagged = [member for member in get_args(kind) if part in _tags(member)]
        if tagged:
            kind = tagged[0]
            continue
        path.append(str(part))
        if isinstance(kind, type) and issubclass(kind, Section):
            fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
            known, kind = list(fields), fields.get(str(part))
        elif get_origin(kind) in (dict, list):
            kind = get_args(kind)[-1]
    return ".".join(path) or "the file", known


def _tags(member: Any) -> tuple[str, ...]:
    fields = getattr(member, "model_fields", {})
    field = fields.get("name") or fields.get("kind")
    return get_args(field.annotation) if field else ()
