"""The README's reference of `params.yaml`, from the schema: `make docs` writes it, a test compares it."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from components.params import Params, Section
from components.paths import ROOT

BEGIN, END = "<!-- params: written by `make docs` -->", "<!-- /params -->"


def render() -> str:
    """A Markdown table: key, what it may be, default, meaning."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*rows, *_rows(Params, "")])


def _rows(section: type[Section], prefix: str) -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        key = prefix + (field.alias or name)
        inner = _section(field.annotation)
        meaning = (field.description or (inner.__doc__ if inner else "") or "").replace("\n", " ").replace("|", "\\|")
        if inner and get_origin(field.annotation) is dict:
            rows += [f"| `{key}` | names | {_default(field)} | {meaning} |", *_rows(inner, f"{key}.<name>.")]
        elif inner:
            if type(None) in get_args(field.annotation):
                rows.append(f"| `{key}` | null, or what follows | null | {meaning} |")
            elif any(isinstance(part, BeforeValidator) for part in field.metadata):
                rows.append(f"| `{key}` | one value, or what follows | | {meaning} |")
            rows += _rows(inner, f"{key}.")
        elif members := _union_of_sections(field.annotation):
            many = "a list of what follows" if get_origin(field.annotation) is list else "one of what follows"
            rows.append(f"| `{key}` | {many} | {_default(field)} | {meaning} |")
            for member in members:
                tagged = "name" if "name" in member.model_fields else "kind"
                tag = get_args(member.model_fields[tagged].annotation)[0]
                rows += [row for row in _rows(member, f"{key}[{tag}].") if f"].{tagged}`" not in row]
        else:
            rows.append(f"| `{key}` | {_kind(field)} | {_default(field)} | {meaning} |")
    return rows


def _section(annotation: Any) -> type[Section] | None:
    candidate = get_args(annotation)[-1] if get_origin(annotation) is dict else annotation
    if type(None) in get_args(candidate):
        candidate = next(member for member in get_args(candidate) if member is not type(None))
    return candidate if isinstance(candidate, type) and issubclass(candidate, Section) else None


def _union_of_sections(annotation: Any) -> list[type[Section]]:
    inner = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    while get_origin(inner) is Annotated:
        inner = get_args(inner)[0]
    return [member for member in get_args(inner) if isinstance(member, type) and issubclass(member, Section)]


def _kind(field: FieldInfo) -> str:
    return _kind_of(field.annotation, field.metadata)


def _kind_of(annotation: Any, metadata: list[Any]) -> str:
    metadata = list(metadata)
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata += more
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _kind_of(part, metadata) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "two numbers"
    if get_origin(annotation) is list:
        return f"list of {_kind_of(get_args(annotation)[0], [])}"
    name = {int: "integer", float: "number", bool: "true, false", str: "text"}[annotation]
    bounds: dict[str, float] = {}
    for item in metadata:
        for part in getattr(item, "metadata", [item]):
            bounds |= {op: getattr(part, op) for op in ("ge", "gt", "le", "lt") if getattr(part, op, None) is not None}
    sign = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return " ".join([name, *(f"{sign[op]} {bounds[op]:g}" for op in ("ge", "gt", "le", "lt") if op in bounds)])


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    value = field.default
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def inserted(text: str) -> str:
    """`text` with what stands between the two markers replaced by the reference as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{render()}\n{END}{after}"


if __name__ == "__main__":
    readme = Path(ROOT / "README.md")
    readme.write_text(inserted(readme.read_text(encoding="utf-8")), encoding="utf-8")
