"""The Prefect objects that an inventory describes on all its levels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.table import KINDS

Entry = dict[str, Any]
Lists = dict[str, list[Any]]

DATA: dict[str, tuple[str, ...]] = {"prefect_tasks": ("flow_name", "name"), "prefect_runners": ("id",)}
"""Key fields of the lists that hold data for flows, not objects of the server."""

NAMES = [*(kind.list_name for kind in KINDS.values()), *DATA]
"""The variables of an inventory that describe Prefect objects."""

PATTERN = re.compile(rf"({'|'.join(NAMES)})(?:__\w+)?")
"""Matches such a variable, or one with a suffix, which adds to it: `prefect_deployments__prod`."""


def merged(variables: Iterable[str], value_of: Callable[[str], Any], base: Mapping[str, Sequence[Any]]) -> Lists:
    """Return the lists of `base` and of all `variables` that describe objects, with each object once.

    Later fields take precedence: first `base`, then the variable without a suffix, then those with a suffix, in
    alphabetical order. Lists without a source are left out. Raises AnsibleError for a value that is not a list.
    """
    found: Lists = {}
    places: dict[str, dict[tuple[str, ...], int]] = {}
    sources: list[tuple[str, Any]] = list(base.items())
    sources += [(name, value_of(name)) for name in sorted(variables) if PATTERN.fullmatch(name)]
    for variable, entries in sources:
        if entries is None:
            continue
        if not isinstance(entries, Sequence) or isinstance(entries, (str, bytes)):
            raise AnsibleError(f"{variable} is not a list")
        name = PATTERN.fullmatch(variable)[1]  # type: ignore[index]
        known, into = places.setdefault(name, {}), found.setdefault(name, [])
        seen: set[tuple[str, ...]] = set()
        for entry in entries:
            key = key_of(name, entry)
            if key is None or key in seen or key not in known:
                # A duplicate in one list is an error, which the later check of the whole list reports.
                if key is not None:
                    known.setdefault(key, len(into))
                into.append(entry)
            else:
                into[known[key]] = overlaid(name, into[known[key]], entry)
            seen |= {key} if key is not None else set()
    return found


def key_of(name: str, entry: Any) -> tuple[str, ...] | None:
    """Return the key of an entry of a list, or None if it is incomplete."""
    if not isinstance(entry, Mapping):
        return None
    keys, words = DATA.get(name, ()), dict(entry)
    if name not in DATA:
        kind = KINDS[name.removeprefix("prefect_").removesuffix("s")]
        keys, words = kind.keys, kind.renamed(words)
    return tuple(str(words[key]) for key in keys) if all(words.get(key) is not None for key in keys) else None


def overlaid(name: str, lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Entry:
    """Return an entry overlaid with the fields of another one; both may use any of a field's names."""
    if name in DATA:
        return {**lower, **upper}
    kind = KINDS[name.removeprefix("prefect_").removesuffix("s")]
    said = kind.renamed(dict(upper)).keys()
    kept = {
        word: value
        for word, value in lower.items()
        if word in upper or not (meant := kind.renamed({word: value}).keys()) or not meant <= said
    }
    return {**kept, **upper}
