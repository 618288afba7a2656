"""Typed records from untyped ones: a dataclass says what is expected, and everything that is wrong is said at once."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}
JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


_columns: dict[type, dict[str, tuple[dataclasses.Field[Any], Any]]] = {}


class DefinitionError(ValueError):
    """Definitions that are wrong, with everything that is: `problems` holds a sentence for each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Row:
    """One record as its source holds it, and where that is, for people."""

    where: str
    values: Mapping[str, Any]
    spelled: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What its source calls a column, where that differs."""

    def said(self, column: str) -> str:
        """Return a column and where it is, as a sentence about it begins."""
        return f"{self.where}: {self.spelled.get(column, column)}"


def columns(kind: Any) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Return the fields of a dataclass and their types, by the name that a definition uses."""
    if kind not in _columns:
        hints = get_type_hints(kind, include_extras=True)
        # A name that is a word of Python's ends in an underscore here.
        _columns[kind] = {spec.name.rstrip("_"): (spec, hints[spec.name]) for spec in dataclasses.fields(kind)}
    return _columns[kind]


def near(name: str, known: Iterable[str]) -> str:
    """Return what ends a sentence about an unknown name: the known one that it may have been meant for."""
    return _near(name, frozenset(known))


@lru_cache(maxsize=1024)
def _near(name: str, known: frozenset[str]) -> str:
    """The same, once for all tasks that name what was renamed."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def parse(kind: type[T], row: Row, problems: list[str]) -> T | None:
    """Return the dataclass `kind` of a row; None, with sentences added to `problems`, where that cannot be done."""
    before, known, values = len(problems), columns(kind), {}
    for name in row.values:
        if name not in known:
            problems.append(f"{row.where}: there is no {name}{near(name, known)}")
    for name, (spec, hint) in known.items():
        if row.values.get(name) is not None:
            values[spec.name] = convert(row.values[name], hint, row.said(name), problems)
        elif spec.default is MISSING and spec.default_factory is MISSING:
            problems.append(f"{row.said(name)} is missing")
    return kind(**values) if len(problems) == before else None


def convert(value: Any, hint: Any, where: str, problems: list[str]) -> Any:
    """Return `value` as the type `hint`; add a sentence to `problems` where it is of another one."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return convert(value, inner[0], where, problems)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        options = [option for option in inner if option is not type(None)]
        for option in options:
            tried: list[str] = []
            found = convert(value, option, where, tried)
            if not tried:
                return found
        if len(options) == 1:
            return convert(value, options[0], where, problems)
        problems.append(f"{where} is {value!r}, but has to be {' or '.join(map(expected, options))}")
        return None
    if origin is Literal:
        if value not in inner:
            problems.append(f"{where} is {value!r}, but has to be one of {', '.join(inner)}{near(str(value), inner)}")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            problems.append(f"{where} is {value!r}, but has to be a mapping")
            return None
        return parse(hint, Row(where, value), problems)
    if origin is list:
        if not isinstance(value, list):
            problems.append(f"{where} is {value!r}, but has to be a list")
            return None
        return [convert(item, inner[0], f"{where}[{number}]", problems) for number, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            problems.append(f"{where} is {value!r}, but has to be a mapping")
            return None
        problems += [
            f"{where} has the key {key!r}, but keys have to be texts; put it in quotes"
            for key in value
            if not isinstance(key, str)
        ]
        return dict(value)
    # A NUMERIC column has decimal numbers, and a REAL one has whole ones as 5.0.
    if hint in (int, float, bool):
        value = number(value)
    # A database without booleans has numbers for them.
    if hint is bool and value in (0, 1):
        return bool(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    infinite = isinstance(value, float) and not math.isfinite(value)
    if not isinstance(value, hint) or infinite or (hint is not bool and isinstance(value, bool)):
        problems.append(f"{where} is {value!r}, but has to be {expected(hint)}")
        return None
    # Subclasses of text, which Ansible has, are texts.
    return str(value) if hint is str else value


def number(value: Any) -> Any:
    """Return a number as JSON has it: a whole one as int, which a database may have in another form."""
    if isinstance(value, Decimal | float) and math.isfinite(value):
        return int(value) if value == int(value) else float(value)
    return value


def expected(hint: Any) -> str:
    """Return a type in words."""
    return NAMES.get(get_origin(hint) or hint, "a mapping")


def json_schema(hint: Any) -> dict[str, Any]:
    """Return the JSON schema of a type; of a dataclass with its descriptions and defaults."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return {"description": inner[1], **json_schema(inner[0])}
    if hint is Any:
        return {}
    if origin in (Union, types.UnionType):
        options = [json_schema(option) for option in inner if option is not type(None)]
        return options[0] if len(options) == 1 else {"anyOf": options}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is list:
        return {"type": "array", "items": json_schema(inner[0])}
    if origin is dict:
        return {"type": "object"}
    if not dataclasses.is_dataclass(hint):
        return {"type": JSON_TYPES[hint]}
    properties, required = {}, []
    for name, (spec, inside) in columns(hint).items():
        properties[name] = json_schema(inside)
        if spec.default is MISSING and spec.default_factory is MISSING:
            required.append(name)
        elif spec.default not in (MISSING, None, ""):
            properties[name]["default"] = spec.default
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return schema | ({"required": required} if required else {})
