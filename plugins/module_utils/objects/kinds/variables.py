"""Variables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...api.client import PROBE
from ...api.masking import is_secret_name
from ..engine import Field, Kind, Server, Values
from .words import LIST, as_set

REGISTRY = "ansible_owner_"
"""Prefix of the variables in which `resources` records what an owner created."""


class Variable(Kind):
    def is_system(self, row: Mapping[str, Any]) -> bool:
        return str(row["name"]).startswith((REGISTRY, PROBE))

    def problems(self, values: Mapping[str, Any]) -> Iterator[str]:
        name = str(values["name"])
        if not re.fullmatch(r"[a-z0-9_-]{1,255}", name):
            yield "name is made of lowercase letters, digits, dashes and underscores, 255 at most"
        if name.startswith(REGISTRY):
            yield f"names that start with {REGISTRY} are kept for what says who made what"
        if any(not -(2**63) <= number < 2**64 for number in _integers(values.get("value"))):
            yield "value holds a number of more than 64 bits, which Prefect does not take: write it as a text"
        if len(json.dumps(values.get("value"))) > 5000:
            yield "value is longer than the 5000 characters of JSON that Prefect takes"

    def shown(self, values: Mapping[str, Any], server: Server, key: str) -> Values:
        hidden = server.mask.fields({"value": values.get("value")}, secret=is_secret_name(key))
        return {**values, **hidden} if "value" in values else dict(values)


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _integers(each)
    elif isinstance(value, int):
        yield value


VARIABLE = Variable(
    name="variable",
    label="variable",
    collection="/variables/",
    item="/variables/name/{name}",
    listing="/variables/filter",
    fields={
        "value": Field(spec={"type": "raw"}, required=True),
        "tags": Field(spec=LIST, normalise=as_set),
    },
)
