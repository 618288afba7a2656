"""Flows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..engine import Field, Kind, Row, Server, Values
from .words import DICT, LIST, as_set, mapping, named


class Flow(Kind):
    def renamed(self, entry: Values) -> Values:
        return {name: value for name, value in entry.items() if name not in {"description", "flow_type", "is_active"}}

    def problems(self, values: Mapping[str, Any]) -> Iterator[str]:
        yield from named(values, "name")

    def create(self, server: Server, key: str, values: Values) -> Row:
        row = super().create(server, key, values)
        # If another client created the flow in the meantime, the server returns it unchanged.
        if values.get("tags") is not None and as_set(row["tags"]) != as_set(values["tags"]):
            server.api.call("PATCH", self.item_path(row, key), {"tags": values["tags"]})
        return row


FLOW = Flow(
    name="flow",
    label="flow",
    collection="/flows/",
    item="/flows/{id}",
    lookup="/flows/name/{name}",
    listing="/flows/filter",
    fields={
        "tags": Field(spec=LIST, normalise=as_set),
        "labels": Field(spec=DICT, normalise=mapping, immutable=True, partial=True),
    },
)
