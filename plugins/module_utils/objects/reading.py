"""Reads the wanted objects: checks their options, and says where each was described."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..api.client import Failure
from .engine import Kind, Values, not_json
from .kinds.words import is_off
from .table import KINDS
from .wishes import Entry, Wish


def read(wanted: Mapping[str, Any], wish: Wish) -> tuple[list[Kind], list[Entry]]:
    """Return the kinds and objects that are described. Raises Failure with all errors in them."""
    by_name = {kind.list_name: kind for kind in KINDS.values()}
    problems, entries, kinds = [], [], []
    if not re.fullmatch(r"[a-z0-9-]{1,60}", wish.owner):
        problems.append(f"owner is {wish.owner!r}: it is made of lowercase letters, digits and dashes, 60 at most")
    for name, given in wanted.items():
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1)
            problems.append(f"{name} is unknown; {near[0]}?" if near else f"{name} is unknown")
        elif given is None:
            continue
        elif not isinstance(given, Sequence) or isinstance(given, str):
            problems.append(f"{name} is not a list")
        else:
            kind = by_name[name]
            kinds.append(kind)
            seen: dict[str, str] = {}
            check = unchecked if wish.typed else checked_by_ansible(spec_of(kind))
            for index, each in enumerate(given):
                entry, wrong = read_entry(kind, check, each, f"{name}[{index}]", wish)
                problems += wrong
                if entry is None:
                    continue
                if entry.key in seen:
                    problems.append(f"{entry.place}: it is described twice, see {seen[entry.key]}")
                seen[entry.key] = f"{name}[{index}]"
                entries.append(entry)
            described = {entry.key: entry for entry in entries if entry.kind is kind and entry.state == "present"}
            wrong_together = kind.clashes({key: entry.wanted for key, entry in described.items()})
            problems += [f"{described[key].place}: {problem}" for key, problem in wrong_together]
    if problems:
        raise several(problems)
    return kinds, entries


def spec_of(kind: Kind) -> dict[str, Any]:
    """Return the options of an entry."""
    return {
        **{name: {"type": "str", "required": True} for name in kind.keys},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        **{name: dict(about.spec) for name, about in kind.fields.items()},
    }


Check = Callable[[Values], tuple[Values, list[str]]]
"""Returns an entry converted to the types of its options, and the errors in it."""


def checked_by_ansible(spec: dict[str, Any]) -> Check:
    """Return a check of what a user has written."""
    # Imported here because a host that applies definitions by itself has no Ansible.
    from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

    validator = ArgumentSpecValidator(spec)

    def check(entry: Values) -> tuple[Values, list[str]]:
        validated = validator.validate(entry)
        return validated.validated_parameters, validated.error_messages

    return check


def unchecked(entry: Values) -> tuple[Values, list[str]]:
    """Return an entry unchanged except for the default of `state`."""
    return {"state": "present", **entry}, []


def read_entry(kind: Kind, check: Check, given: Any, place: str, wish: Wish) -> tuple[Entry | None, list[str]]:
    """Return a described object, or None, and the errors in it."""
    if not isinstance(given, Mapping):
        return None, [f"{place} is not a mapping"]
    drop = is_off(given.get("is_active")) and wish.inactive == "absent"
    entry = {name: value for name, value in kind.renamed(dict(given)).items() if value is not None}
    label = "/".join(str(entry.get(name, "?")) for name in kind.keys)
    place = f"{place} ({label})"
    problems = list(misspelt(entry, spec_of(kind), place))
    if problems:
        return None, problems
    checked, problems = check(entry)
    if problems:
        return None, [f"{place}: {message}" for message in problems]
    values = {name: value for name, value in checked.items() if value is not None}
    state = "absent" if drop else values.pop("state")
    fields = {name: value for name, value in values.items() if name in kind.fields}
    if state == "present":
        problems = [f"{place}: {problem}" for problem in (*kind.problems(values), *not_json(values))]
    return Entry(kind=kind, key=kind.key(values), wanted=fields, state=state, place=place), problems


def misspelt(given: Mapping[str, Any], spec: Mapping[str, Any], place: str) -> Iterator[str]:
    """Yield an error for each unknown option, at any depth."""
    for name, value in given.items():
        if name not in spec:
            near = difflib.get_close_matches(str(name), spec, n=1)
            yield f"{place}: {name} is unknown; " + (f"{near[0]}?" if near else f"one of {', '.join(spec)}")
        elif inner := spec[name].get("options"):
            for index, each in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(each, Mapping):
                    yield from misspelt(each, inner, f"{place}: {name}[{index}]")


def several(problems: Sequence[str]) -> Failure:
    number = f"{len(problems)} things are" if len(problems) > 1 else "Something is"
    listed = "".join(f"\n- {problem}" for problem in problems)
    return Failure(f"{number} wrong with the resources, and nothing was written:{listed}", errors=list(problems))
