"""Values in a definition that are known only when a task runs: `${NAME}`, `{result_of: task}`, `{parameter: name}`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .records import DefinitionError

NAME = re.compile(r"\$(?P<literal>\$(?=\{))|\$\{(?P<name>[A-Za-z_]\w*)(?::(?P<default>[^}]*))?\}|\$\{(?P<bad>[^}]*)\}?")
"""`${NAME}`, `${NAME:default}`; `$${` is a `${` that stays."""


@dataclass(frozen=True)
class References:
    """What a value refers to: results of tasks, parameters of the flow, names of the environment without a default."""

    results: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def references(value: Any) -> References:
    """Return what a value refers to, each thing once."""
    found: dict[str, dict[str, None]] = {"result": {}, "parameter": {}, "name": {}, "problem": {}}
    for kind, name in _walk(value):
        found[kind][name] = None
    return References(*(tuple(names) for names in found.values()))


def _walk(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        for match in NAME.finditer(value):
            if match["bad"] is not None:
                yield "problem", f"{match[0]!r} has to be ${{NAME}} or ${{NAME:default}}; $${{ is a ${{ that stays"
            elif match["name"] and match["default"] is None:
                yield "name", match["name"]
    elif isinstance(value, Mapping):
        for key, kind in (("result_of", "result"), ("parameter", "parameter")):
            if set(value) == {key}:
                good = isinstance(value[key], str)
                yield (kind, str(value[key])) if good else ("problem", f"{key} has to be a name, and is {value[key]!r}")
                return
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _walk(item)


def fill(
    value: Any, *, environment: Mapping[str, str], results: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Any:
    """Return a value of a definition with everything that it refers to in place.

    Results and parameters come from elsewhere, and go in as they are: a user who may start a flow run must not be
    able to read the environment. Raises DefinitionError for a name that the environment lacks and that has no default.
    """
    if isinstance(value, str):
        return _expand(value, environment)
    if isinstance(value, Mapping):
        if set(value) == {"result_of"}:
            return results[value["result_of"]]
        if set(value) == {"parameter"}:
            return parameters[value["parameter"]]
        return {
            key: fill(item, environment=environment, results=results, parameters=parameters)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [fill(item, environment=environment, results=results, parameters=parameters) for item in value]
    return value


class Parameter(inspect.Parameter):
    """A parameter by keyword that may have any name, such as `start-date` or `class`: it is never written in Python."""

    __slots__ = ()

    def __init__(self, name: str, *, default: Any) -> None:
        super().__init__("parameter", inspect.Parameter.KEYWORD_ONLY, default=default)
        self._name = name


def signature(names: Iterable[str], defaults: Mapping[str, Any]) -> inspect.Signature:
    """Return the signature of a flow that takes these parameters, each with a default or None."""
    return inspect.Signature([Parameter(name, default=defaults.get(name)) for name in names])


def own_parameters(
    given: Mapping[str, Any], described: Mapping[str, Sequence[Any]], *, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return the parameters of a flow run, with those filled in that are exactly as a definition has them.

    `described` are the values that the definitions have for each parameter. The server only stores these, so that a
    flow run brings them back unchanged; a value that comes from the API and stands in no definition stays as it is.
    """
    return {
        name: fill(value, environment=environment, results={}, parameters={})
        if _plain(value) and value in described.get(name, ())
        else value
        for name, value in given.items()
    }


def _plain(value: Any) -> bool:
    """Return whether a parameter refers to nothing but the environment."""
    found = references(value)
    return not (found.results or found.parameters or found.problems)


def _expand(text: str, environment: Mapping[str, str]) -> str:
    def replacement(match: re.Match[str]) -> str:
        if match["literal"]:
            return "$"
        if match["name"] is None:
            return match[0]
        if match["name"] in environment:
            return environment[match["name"]]
        if match["default"] is None:
            raise DefinitionError([f"{match['name']} is not set on this host, and ${{{match['name']}}} has no default"])
        return match["default"]

    return NAME.sub(replacement, text)
