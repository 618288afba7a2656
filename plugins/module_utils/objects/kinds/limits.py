"""Global and tag concurrency limits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..engine import Field, Kind, Plan, Row, Server, Values
from .words import BOOL, INT, at_least, named, rename


class Limit(Kind):
    """A global concurrency limit. Limits named `tag:*` and `deployment:*` belong to other objects."""

    def is_system(self, row: Mapping[str, Any]) -> bool:
        return str(row["name"]).startswith(("tag:", "deployment:"))

    def problems(self, values: Mapping[str, Any]) -> Iterator[str]:
        yield from named(values, "name")
        yield from at_least(values, "limit", 0, clear=None)
        yield from at_least(values, "slot_decay_per_second", 0, clear=None)
        if str(values["name"]).startswith("tag:"):
            yield "limits named tag:* belong to tags: see tag_concurrency_limit"
        if str(values["name"]).startswith("deployment:"):
            yield "limits named deployment:* belong to deployments: set a deployment's concurrency_limit"


class TagLimit(Kind):
    """A limit of task runs by tag. The server creates and changes it with the same request.

    It is stored as the global limit `tag:*`, unless it was created by a Prefect version that stored it separately.
    """

    def rows(self, server: Server) -> Iterator[Row]:
        # The listing of tag limits takes a page of all limits, then filters: it misses some after the 200th.
        seen = set()
        for row in server.api.pages("/v2/concurrency_limits/filter"):
            prefix, _, tag = str(row["name"]).partition(":")
            if prefix == "tag":
                seen.add(tag)
                yield {**row, "tag": tag, "concurrency_limit": row["limit"]}
        yield from (row for row in server.api.pages(self.listing) if row["tag"] not in seen)

    def renamed(self, entry: Values) -> Values:
        return rename(entry, limit="concurrency_limit")

    def problems(self, values: Mapping[str, Any]) -> Iterator[str]:
        if not re.fullmatch(r"[^/]+", str(values["tag"])):
            yield "tag must not be empty or hold a /, by which the server would not find it"
        yield from at_least(values, "concurrency_limit", 0, clear=None)

    def update(self, server: Server, todo: Plan) -> None:
        self.create(server, todo.key, todo.changes)


GLOBAL_CONCURRENCY_LIMIT = Limit(
    name="global_concurrency_limit",
    label="global concurrency limit",
    collection="/v2/concurrency_limits/",
    item="/v2/concurrency_limits/{name}",
    listing="/v2/concurrency_limits/filter",
    fields={
        "limit": Field(spec=INT, required=True),
        "active": Field(spec=BOOL),
        "slot_decay_per_second": Field(spec={"type": "float"}),
    },
)


TAG_CONCURRENCY_LIMIT = TagLimit(
    name="tag_concurrency_limit",
    label="tag concurrency limit",
    keys=("tag",),
    collection="/concurrency_limits/",
    item="/concurrency_limits/{id}",
    lookup="/concurrency_limits/tag/{tag}",
    listing="/concurrency_limits/filter",
    fields={"concurrency_limit": Field(spec=INT, required=True)},
)
