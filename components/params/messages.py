"""Messages for wrong values: pydantic's errors in the terms of `params.yaml`."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from components.params.base import Section


def describe_errors(error: ValidationError, schema: type[Section]) -> list[str]:
    """Return one line per error: the dotted key, what was found and what is allowed."""
    lines = []
    for details in error.errors():
        key, siblings = _locate(details["loc"], schema)
        lines.append(f"{key}: {_describe(details, siblings)}")
    return lines


def _describe(details: ErrorDetails, siblings: list[str]) -> str:
    message = details["msg"].removeprefix("Value error, ")
    value = details["input"]
    context = details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            nearest = difflib.get_close_matches(str(details["loc"][-1]), siblings, n=1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            return f"no such key; {hint}known: {', '.join(siblings)}"
        case "missing":
            return "missing"
        case "literal_error":
            return f"found {value!r}; known: {context['expected'].replace(' or ', ', ')}"
        case "union_tag_invalid":
            return f"found {context['tag']!r}; known: {context['expected_tags']}"
        case "union_tag_not_found":
            return f"{context['discriminator'].strip(chr(39))} is missing"
        case "value_error":
            return message
        case _:
            return f"{message[:1].lower()}{message[1:]} (found {value!r})"


def _locate(location: tuple[int | str, ...], schema: type[Section]) -> tuple[str, list[str]]:
    """Return the dotted key of an error, and the keys that its section knows.

    Pydantic's location also contains the tags of union members (`idx`, `crop`). They are no part
    of the key.
    """
    kind: Any = schema
    key = []
    siblings: list[str] = []
    for part in location:
        while get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        members = [member for member in get_args(kind) if part in _tags(member)]
        if members:
            kind = members[0]
            continue
        key.append(str(part))
        if isinstance(kind, type) and issubclass(kind, Section):
            fields = {
                field.alias or name: field.annotation for name, field in kind.model_fields.items()
            }
            siblings = list(fields)
            kind = fields.get(str(part))
        elif get_origin(kind) in (dict, list):
            kind = get_args(kind)[-1]
    return ".".join(key) or "the file", siblings


def _tags(member: Any) -> tuple[str, ...]:
    """Return the values of the discriminator (`name` or `kind`) of a union's member."""
    fields = getattr(member, "model_fields", {})
    field = fields.get("name") or fields.get("kind")
    return get_args(field.annotation) if field else ()
