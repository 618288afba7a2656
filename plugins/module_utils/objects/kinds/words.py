"""What the families of objects share: options, checks and normal forms."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..engine import Values

NAME = r"[^/%&<>]+"


TEXT, INT, BOOL, DICT = {"type": "str"}, {"type": "int"}, {"type": "bool"}, {"type": "dict"}


LIST = {"type": "list", "elements": "str"}


def text(value: Any) -> Any:
    """Treat an empty text as none."""
    return value or None


def as_set(value: Any) -> list[str]:
    """Treat tags as unordered."""
    return sorted(set(value or ()))


def mapping(value: Any) -> Any:
    return value or {}


def named(values: Mapping[str, Any], *names: str) -> Iterator[str]:
    """Yield an error for each of the fields `names` that is not a valid Prefect name."""
    for name in names:
        if not re.fullmatch(NAME, str(values.get(name))):
            yield f"{name} must not be empty or hold any of / % & < >"


def at_least(values: Mapping[str, Any], name: str, least: int, *, clear: int | None = -1) -> Iterator[str]:
    """Yield an error if the number `name` is too small. `clear` is the number that means no limit."""
    value = values.get(name)
    if value is not None and value < least and value != clear:
        none = "" if clear is None else f", or {clear} for no limit"
        yield f"{name} is {value}: it is at least {least}{none}"


def choice(given: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(given), [str(each) for each in known], n=1)
    return f"; {near[0]}?" if near else ""


def is_off(value: Any) -> bool:
    """Whether a value of `is_active`, which may come from a database, means false."""
    return str(value).lower() in {"false", "0", "no", "off"}


def rename(entry: Values, **words: str) -> Values:
    """Return an entry with old option names replaced; if both are set, the new one takes precedence."""
    after = {name: value for name, value in entry.items() if name not in words}
    for old, new in words.items():
        if entry.get(old) is not None:
            after.setdefault(new, entry[old])
    return after
