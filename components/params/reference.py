"""Reference of the parameters as Markdown, rendered from the schema and its docstrings."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from components.params import Params, Section

_TYPE_NAMES = {int: "integer", float: "number", bool: "true, false", str: "text"}
_BOUND_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def render() -> str:
    """Return a Markdown table of all parameters: key, value, default, meaning."""
    rows = [_row("key", "value", "default", "meaning"), "|---|---|---|---|"]
    return "\n".join(rows + _section_rows(Params, ""))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _section_rows(section: type[Section], prefix: str) -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        rows += _field_rows(prefix + (field.alias or name), field)
    return rows


def _field_rows(key: str, field: FieldInfo) -> list[str]:
    meaning = (field.description or "").replace("\n", " ")
    default = _format_default(field)
    if members := _union_members(field.annotation):
        value = "one of what follows"
        if get_origin(field.annotation) is list:
            value = "a list of what follows"
        elif any(isinstance(item, BeforeValidator) for item in field.metadata):
            value = "a name, or one of what follows"
        return [_row(f"`{key}`", value, default, meaning), *_member_rows(key, members)]
    section = _inner_section(field.annotation)
    if section is None:
        value = _format_type(field.annotation, field.metadata)
        return [_row(f"`{key}`", value, default, meaning)]
    if get_origin(field.annotation) is dict:
        rows = _section_rows(section, f"{key}.<name>.")
        return [_row(f"`{key}`", "names", default, meaning), *rows]
    rows = _section_rows(section, f"{key}.")
    if type(None) in get_args(field.annotation):
        return [_row(f"`{key}`", "null, or what follows", default, meaning), *rows]
    if any(isinstance(item, BeforeValidator) for item in field.metadata):
        return [_row(f"`{key}`", "one value, or what follows", default, meaning), *rows]
    return rows


def _member_rows(key: str, members: list[type[Section]]) -> list[str]:
    """Return the rows of a union: those of its members, each under the tag that selects it."""
    rows = []
    for member in members:
        discriminator = "name" if "name" in member.model_fields else "kind"
        tag = get_args(member.model_fields[discriminator].annotation)[0]
        meaning = " ".join((member.__doc__ or "").split())
        rows.append(_row(f"`{key}[{tag}]`", f"{discriminator}: {tag}", "", meaning))
        for name, field in member.model_fields.items():
            if name != discriminator:
                rows += _field_rows(f"{key}[{tag}].{name}", field)
    return rows


def _inner_section(annotation: Any) -> type[Section] | None:
    """Return the section in an annotation: `X`, `X | None` or `dict[str, X]`."""
    inner = get_args(annotation)[-1] if get_origin(annotation) is dict else annotation
    if type(None) in get_args(inner):
        inner = next(member for member in get_args(inner) if member is not type(None))
    return inner if _is_section(inner) else None


def _union_members(annotation: Any) -> list[type[Section]]:
    """Return the sections of a union of at least two, or of a list of such a union."""
    inner = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    while get_origin(inner) is Annotated:
        inner = get_args(inner)[0]
    if get_origin(inner) not in (Union, types.UnionType):
        return []
    members = [member for member in get_args(inner) if _is_section(member)]
    return members if len(members) > 1 else []


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _format_type(annotation: Any, metadata: list[Any]) -> str:
    metadata = list(metadata)
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata += more
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(
            "null" if member is type(None) else _format_type(member, metadata)
            for member in get_args(annotation)
        )
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "two numbers"
    if get_origin(annotation) is dict:
        return "mapping"
    if get_origin(annotation) is list:
        return f"list of {_format_type(get_args(annotation)[0], [])}"
    return " ".join([_TYPE_NAMES[annotation], *_format_bounds(metadata)])


def _format_bounds(metadata: list[Any]) -> list[str]:
    bounds = {}
    for item in metadata:
        for constraint in getattr(item, "metadata", [item]):
            for operator in _BOUND_SIGNS:
                if (bound := getattr(constraint, operator, None)) is not None:
                    bounds[operator] = bound
    return [f"{sign} {bounds[op]}" for op, sign in _BOUND_SIGNS.items() if op in bounds]


def _format_default(field: FieldInfo) -> str:
    match field.default:
        case value if value is PydanticUndefined:
            return "required"
        case None:
            return "null"
        case bool(value):
            return str(value).lower()
        case list(value) | tuple(value):
            return f"[{', '.join(str(item) for item in value)}]"
        case Section() as section if "name" in type(section).model_fields:
            return str(dict(section)["name"])
        case Section() as section:
            return f"{{{', '.join(f'{name}: {value}' for name, value in section)}}}"
        case value:
            return str(value)
