"""Work pools and their queues."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...api.client import PAGE, Failure, quoted
from ..engine import Field, Kind, Row, Server, Values
from ..recreations import Recreation
from .words import BOOL, DICT, INT, TEXT, at_least, choice, is_off, named, rename, text

TEMPLATE = ("job_configuration", "variables")
"""The parts of a work pool's job template."""


QUEUE = ("name", "description", "is_paused", "concurrency_limit", "priority")
"""The fields that are restored on the queues of a recreated pool."""


class WorkPool(Kind):
    """A pool. A change of type recreates it and its queues, and links its deployments to it again."""

    def is_system(self, row: Mapping[str, Any]) -> bool:
        return str(row["name"]).lower().startswith("prefect")

    def renamed(self, entry: Values) -> Values:
        after = dict(entry)
        nested = after.pop("config", None)
        if isinstance(nested, Mapping):
            after = {**nested, **after}
        if after.get("is_active") is not None:
            after.setdefault("is_paused", is_off(after["is_active"]))
        after.pop("is_active", None)
        return rename(after, pool_type="type")

    def problems(self, values: Mapping[str, Any]) -> Iterator[str]:
        if str(values["name"]).lower().startswith("prefect"):
            yield "Prefect keeps names that start with 'prefect' for itself: choose another name"
        yield from named(values, "name")
        yield from at_least(values, "concurrency_limit", 0)
        template = values.get("base_job_template")
        if template is None:
            return
        if not all(template.get(name) and isinstance(template[name], Mapping) for name in TEMPLATE):
            yield (
                f"base_job_template needs {' and '.join(TEMPLATE)}, and neither empty; leave it out to keep the "
                "current one, or to let the first worker fill it in"
            )
            return
        # As the server does, which knows no placeholder but variables here.
        used = re.findall(r"\{\{\s*([\w.\-\[\]$]+)\s*\}\}", json.dumps(list(template["job_configuration"].values())))
        known = template["variables"].get("properties") or {}
        for name in sorted(set(used) - known.keys()):
            hint = "; make it the default of a variable" if name.startswith("prefect.") else choice(name, known)
            yield f"base_job_template.job_configuration uses {name}, which variables lack{hint}"

    def attached(self, server: Server, key: str) -> Row:
        """Return a pool's queues, and the ids of the deployments linked to it, by queue."""
        queues = list(server.api.pages(f"/work_pools/{quoted(key)}/queues/filter"))
        inside = {"work_pools": {"name": {"any_": [key]}}}
        links: dict[str, list[str]] = {}
        for deployment in server.api.pages("/deployments/filter", inside):
            links.setdefault(deployment["work_queue_name"] or "default", []).append(deployment["id"])
        kept = ("id", *QUEUE)
        return {"queues": [{name: queue[name] for name in kept} for queue in queues], "deployments": links}

    def restore(self, server: Server, key: str, attached: Mapping[str, Any]) -> None:
        path = f"/work_pools/{quoted(key)}/queues"
        present = {queue["name"]: queue for queue in server.api.pages(f"{path}/filter")}
        for queue in sorted(attached["queues"], key=lambda queue: queue["priority"] or 0):
            body = {name: queue[name] for name in QUEUE if queue.get(name) is not None}
            name = queue["name"]
            made = present.get(name) or server.api.post(path, body)
            if any(made[word] != queue[word] for word in QUEUE):
                server.api.call("PATCH", f"{path}/{quoted(name)}", body)
            server.put("work_queue", f"{key}/{name}", {**made, **body})
            if made["id"] != queue["id"]:
                server.replaced.append(("work_queue", queue["id"], made["id"]))
        for name, ids in attached["deployments"].items():
            for at in range(0, len(ids), PAGE):
                linked = {"deployments": {"id": {"any_": ids[at : at + PAGE]}}}
                for deployment in list(server.api.pages("/deployments/filter", linked)):
                    # A deployment that was moved to another pool in the meantime stays there.
                    if deployment["work_pool_name"] is None:
                        place = {"work_pool_name": key, "work_queue_name": name}
                        server.api.call("PATCH", f"/deployments/{deployment['id']}", place)

    def restored(self, noted: Recreation) -> Iterator[tuple[str, str]]:
        yield from (("work_queue", f"{noted.key}/{queue['name']}") for queue in noted.restored["queues"])


class WorkQueue(Kind):
    def is_system(self, row: Mapping[str, Any]) -> bool:
        """Prefect creates and deletes the default queue with its pool."""
        return row["name"] == "default" or str(row.get("work_pool_name")).lower().startswith("prefect")

    def renamed(self, entry: Values) -> Values:
        return rename(entry, work_pool_name="work_pool")

    def problems(self, values: Mapping[str, Any]) -> Iterator[str]:
        yield from named(values, "work_pool", "name")
        yield from at_least(values, "concurrency_limit", 0)
        yield from at_least(values, "priority", 1, clear=None)

    def clashes(self, wanted: Mapping[str, Values]) -> Iterator[tuple[str, str]]:
        """The server moves a queue on whose priority another one of the pool gets."""
        first: dict[tuple[str, int], str] = {}
        for key, values in wanted.items():
            if (priority := values.get("priority")) is not None:
                pool = self.parts(key)["work_pool"]
                other = first.setdefault((pool, priority), key)
                if other != key:
                    yield key, f"priority is {priority}, as that of {other}: it is another one for each queue of a pool"

    def uses(self, key: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield "work_pool", self.parts(key)["work_pool"]

    def key_of(self, row: Mapping[str, Any], server: Server) -> str | None:
        return f"{row['work_pool_name']}/{row['name']}" if row.get("work_pool_name") else None

    def body(self, values: Mapping[str, Any], server: Server) -> Row:
        after = super().body(values, server)
        return {**after, "description": after["description"] or ""} if "description" in after else after

    def create(self, server: Server, key: str, values: Values) -> Row:
        place = self.parts(key)
        given = {name: value for name, value in values.items() if value is not None}
        path = self.path(self.collection, place)
        row: Row = server.api.post(path, {"name": place["name"], **self.body(given, server)})
        return row

    def delete(self, server: Server, row: Row, key: str) -> None:
        if row["name"] == "default":
            raise Failure(f"work queue {key}: a pool's default queue cannot be deleted, it goes with the pool")
        super().delete(server, row, key)


WORK_POOL = WorkPool(
    name="work_pool",
    label="work pool",
    level=2,
    collection="/work_pools/",
    item="/work_pools/{name}",
    listing="/work_pools/filter",
    recreatable=True,
    shows=("id", "status"),
    fields={
        "type": Field(spec=TEXT, default="process", immutable=True),
        "description": Field(spec=TEXT, clear="", normalise=text),
        "concurrency_limit": Field(spec=INT, clear=-1),
        "is_paused": Field(spec=BOOL),
        "base_job_template": Field(spec=DICT),
    },
)


WORK_QUEUE = WorkQueue(
    name="work_queue",
    label="work queue",
    level=3,
    keys=("work_pool", "name"),
    collection="/work_pools/{work_pool}/queues",
    item="/work_pools/{work_pool}/queues/{name}",
    listing="/work_queues/filter",
    shows=("id", "status"),
    fields={
        "description": Field(spec=TEXT, clear="", normalise=text),
        "concurrency_limit": Field(spec=INT, clear=-1),
        "is_paused": Field(spec=BOOL),
        "priority": Field(spec=INT),
    },
)
