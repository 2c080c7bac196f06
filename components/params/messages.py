"""Errors in `params.yaml`: all of them at once, in the terms of the file."""

from __future__ import annotations

import copy
import difflib
import re
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from components.params.base import Section

_Path = tuple[int | str, ...]


@dataclass
class _Place:
    """The place of an error in the file."""

    path: _Path = ()
    """Keys and list indices that lead to the value."""
    siblings: list[str] = field(default_factory=list)
    """Keys of the section that the value belongs to."""
    section: type[Section] | None = None
    """The schema of the value itself, if it is a section."""

    def __str__(self) -> str:
        return ".".join(map(str, self.path)) or "the file"


def find_errors(data: dict[str, Any], schema: type[Section]) -> list[str]:
    """Return one line per error: the dotted key, what was found and what is allowed.

    Pydantic runs the checks between the keys of a section only when each key is right. Therefore
    wrong values are removed and the rest is checked again, until there is nothing left to find. An
    error that a removed value may have caused is not reported.
    """
    data = copy.deepcopy(data)
    lines: list[str] = []
    removed: set[_Path] = set()
    while True:
        try:
            schema.model_validate(data)
        except ValidationError as error:
            places = [(details, _locate(details["loc"], schema)) for details in error.errors()]
        else:
            return lines
        lines += [
            f"{place}: {_describe(details, place)}"
            for details, place in places
            if not removed or _is_independent(details, place, removed)
        ]
        paths = {path for details, place in places for path in _wrong_paths(details, place, data)}
        paths.discard(())  # a section is missing, which cannot be made up
        if not paths:
            return lines
        _remove(data, paths)
        removed |= paths
        # A misspelt key stands for the nearest key, which has its default now.
        for details, place in places:
            if details["type"] == "extra_forbidden":
                removed |= {(*place.path[:-1], key) for key in _nearest(place)}


def _is_independent(details: ErrorDetails, place: _Place, removed: set[_Path]) -> bool:
    """Return whether a check between keys failed, and its message names no removed key."""
    if details["type"] != "value_error" or place.section is None:
        return False
    inside = [path for path in removed if path[: len(place.path)] == place.path]
    # The element of a list has no name: it counts as the list.
    keys = {[part for part in path if isinstance(part, str)][-1] for path in inside}
    return not keys & _words(details["msg"])


def _wrong_paths(details: ErrorDetails, place: _Place, data: dict[str, Any]) -> list[_Path]:
    """Return what to remove from `data`, so that an error does not hide others.

    These are the keys with a default that the message of a check between keys names, else the
    value. If the value is missing, its section is removed.
    """
    if details["type"] == "value_error" and place.section is not None:
        named = [
            (*place.path, key)
            for key, info in _fields(place.section).items()
            if key in _words(details["msg"]) and not info.is_required()
        ]
        if present := [path for path in named if _contains(data, path)]:
            return present
    path = place.path
    while not _contains(data, path):
        path = path[:-1]
    return [path]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def _contains(data: Any, path: _Path) -> bool:
    for part in path:
        if isinstance(data, dict):
            if part not in data:
                return False
        elif not isinstance(data, list) or part not in range(len(data)):
            return False
        data = data[part]
    return True


def _remove(data: Any, paths: set[_Path]) -> None:
    # From the end, so that the indices in front of a removed element of a list stay right.
    for path in sorted(paths, key=lambda path: [(str(type(p)), p) for p in path], reverse=True):
        container = data
        for part in path[:-1]:
            container = container[part]
        del container[path[-1]]


def _describe(details: ErrorDetails, place: _Place) -> str:
    message = details["msg"].removeprefix("Value error, ")
    value = details["input"]
    context = details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            nearest = _nearest(place)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            return f"no such key; {hint}known: {', '.join(place.siblings)}"
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


def _nearest(place: _Place) -> list[str]:
    return difflib.get_close_matches(str(place.path[-1]), place.siblings, n=1)


def _locate(location: _Path, schema: type[Section]) -> _Place:
    """Return the place that pydantic's location of an error means.

    The location also contains the tags of union members (`idx`, `crop`), which are no part of the
    path.
    """
    place = _Place(section=schema)
    kind: Any = schema
    for part in location:
        if part == "[key]":  # the key itself is wrong
            continue
        members = [member for member in get_args(kind) if part in _tags(member)]
        if members:
            kind = members[0]
        elif get_origin(kind) in (Union, UnionType):
            kind = None  # the part names a type, such as `int`
        else:
            place.path += (part,)
            if place.section:
                place.siblings = list(_fields(place.section))
                info = _fields(place.section).get(str(part))
                kind = info.annotation if info else None
            elif get_origin(kind) in (dict, list):
                kind = get_args(kind)[-1]
        kind = _unwrap(kind)
        is_section = isinstance(kind, type) and issubclass(kind, Section)
        place.section = kind if is_section else None
    return place


def _fields(section: type[Section]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in section.model_fields.items()}


def _unwrap(kind: Any) -> Any:
    """Return `X` of `Annotated[X, ...]` and of `X | None`."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    members = [member for member in get_args(kind) if member is not NoneType]
    return _unwrap(members[0]) if NoneType in get_args(kind) and len(members) == 1 else kind


def _tags(member: Any) -> tuple[str, ...]:
    """Return the values of the discriminator (`name` or `kind`) of a union's member."""
    fields = getattr(member, "model_fields", {})
    tag = fields.get("name") or fields.get("kind")
    return get_args(tag.annotation) if tag else ()
