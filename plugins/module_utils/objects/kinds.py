"""The table of objects that Prefect's API manages: a row per kind, and classes for what a kind does differently.

To add a kind, add a row, and a module with its documentation.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..api.client import PAGE, PROBE, Failure, quoted
from ..api.masking import Mask, hidden_texts, is_secret_name, reference_to, texts
from . import automations, schedules
from .engine import Field, Kind, Plan, Row, Server, Values, run, same
from .recreations import Recreation

NAME = r"[^/%&<>]+"
REGISTRY = "ansible_owner_"
"""Prefix of the variables in which `resources` records what an owner created."""

TEMPLATE = ("job_configuration", "variables")
"""The parts of a work pool's job template."""

QUEUE = ("name", "description", "is_paused", "concurrency_limit", "priority")
"""The fields that are restored on the queues of a recreated pool."""

ENVIRONMENT_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}"

ENVIRONMENT = "prefect-environment"
"""The program on the PATH of workers that runs a flow run with the packages of an environment."""

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


def environment_of(job_variables: Any) -> tuple[str | None, Any]:
    """Return the environment that the command in job variables names, if any, and the variables without it."""
    given = job_variables or {}
    found = re.fullmatch(rf"{ENVIRONMENT} ({ENVIRONMENT_NAME})", str(given.get("command") or "").strip())
    if found is None:
        return None, given
    return found[1], {name: value for name, value in given.items() if name != "command"}


def with_environment(job_variables: Any, environment: str | None) -> Values:
    """Return job variables with the command that runs a flow run in an environment, if one is given."""
    given = dict(job_variables or {})
    return {**given, "command": f"{ENVIRONMENT} {environment}"} if environment else given


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

    def complaints(self, values: Mapping[str, Any]) -> Iterator[str]:
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

    def complaints(self, values: Mapping[str, Any]) -> Iterator[str]:
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


class Variable(Kind):
    def is_system(self, row: Mapping[str, Any]) -> bool:
        return str(row["name"]).startswith((REGISTRY, PROBE))

    def complaints(self, values: Mapping[str, Any]) -> Iterator[str]:
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


class Limit(Kind):
    """A global concurrency limit. Limits named `tag:*` and `deployment:*` belong to other objects."""

    def is_system(self, row: Mapping[str, Any]) -> bool:
        return str(row["name"]).startswith(("tag:", "deployment:"))

    def complaints(self, values: Mapping[str, Any]) -> Iterator[str]:
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

    def complaints(self, values: Mapping[str, Any]) -> Iterator[str]:
        if not re.fullmatch(r"[^/]+", str(values["tag"])):
            yield "tag must not be empty or hold a /, by which the server would not find it"
        yield from at_least(values, "concurrency_limit", 0, clear=None)

    def update(self, server: Server, todo: Plan) -> None:
        self.create(server, todo.key, todo.changes)


class Flow(Kind):
    def renamed(self, entry: Values) -> Values:
        return {name: value for name, value in entry.items() if name not in {"description", "flow_type", "is_active"}}

    def complaints(self, values: Mapping[str, Any]) -> Iterator[str]:
        yield from named(values, "name")

    def create(self, server: Server, key: str, values: Values) -> Row:
        row = super().create(server, key, values)
        # If another client created the flow in the meantime, the server returns it unchanged.
        if values.get("tags") is not None and as_set(row["tags"]) != as_set(values["tags"]):
            server.api.call("PATCH", self.item_path(row, key), {"tags": values["tags"]})
        return row


class BlockType(Kind):
    """A type of block. Schemas define the fields of its blocks; the newest applies."""

    def is_system(self, row: Mapping[str, Any]) -> bool:
        return bool(row.get("is_protected"))

    def complaints(self, values: Mapping[str, Any]) -> Iterator[str]:
        if not re.fullmatch(r"[a-z0-9-]+", str(values["slug"])):
            yield "slug is made of lowercase letters, digits and dashes"
        if values.get("name") is not None:
            yield from named(values, "name")

    def shape(self, row: Mapping[str, Any], server: Server) -> Values:
        newest = next(iter(block_schemas(server, row["slug"])), None)
        return {
            **super().shape(row, server),
            "schema": definition(newest["fields"]) if newest else None,
            "capabilities": as_set(newest["capabilities"]) if newest else [],
        }

    def checks(self, todo: Plan, server: Server) -> Iterator[str]:
        if todo.changes.get("capabilities") and todo.after.get("schema") is None:
            yield "capabilities are those of a schema, and it has none: set schema"

    def create(self, server: Server, key: str, values: Values) -> Row:
        given = {name: value for name, value in values.items() if name not in {"schema", "capabilities"}}
        row = super().create(server, key, {"name": key.replace("-", " ").title(), **given})
        self._add_schema(server, row, values)
        return row

    def update(self, server: Server, todo: Plan) -> None:
        assert todo.row is not None
        own = {name: value for name, value in todo.changes.items() if name not in {"schema", "capabilities"}}
        if own:
            server.api.call("PATCH", self.item_path(todo.row, todo.key), own)
        if len(own) < len(todo.changes):
            self._add_schema(server, todo.row, todo.after)

    def _add_schema(self, server: Server, row: Row, values: Values) -> None:
        if values.get("schema") is None:
            return
        known = block_schemas(server, row["slug"])
        body = {
            "fields": {"block_type_slug": row["slug"], **values["schema"]},
            "capabilities": as_set(values.get("capabilities")),
            "block_type_id": row["id"],
        }
        made = server.api.post("/block_schemas/", body)
        current = known and made["id"] == known[0]["id"] and same(as_set(made["capabilities"]), body["capabilities"])
        if any(made["id"] == each["id"] for each in known) and not current:
            # The server knows this schema as an earlier one, or with other capabilities, and returns that one.
            server.api.post("/block_schemas/", {**body, "version": f"again-{len(known)}"})
        server.schemas.pop(row["slug"], None)


class Block(Kind):
    """A block document. Its fields are in `data`, where `{"$ref": "type/name"}` refers to another block."""

    def renamed(self, entry: Values) -> Values:
        return rename(entry, block_type_slug="block_type", type="block_type")

    def is_system(self, row: Mapping[str, Any]) -> bool:
        return bool(row.get("is_anonymous"))

    def complaints(self, values: Mapping[str, Any]) -> Iterator[str]:
        for name in ("block_type", "name"):
            if not re.fullmatch(r"[a-z0-9-]+", str(values[name])):
                yield f"{name} is made of lowercase letters, digits and dashes"

    def checks(self, todo: Plan, server: Server) -> Iterator[str]:
        slug = self.parts(todo.key)["block_type"]
        schema = next(iter(block_schemas(server, slug)), None) if server.find("block_type", slug) else None
        if schema is None:
            return
        data, properties = todo.after["data"], schema["fields"].get("properties") or {}
        for name in data:
            near = choice(name, properties)
            if name not in properties and near and not schema["fields"].get("additionalProperties"):
                yield f"data.{name} is unknown{near}"
        if todo.row is None:
            for name in schema["fields"].get("required") or []:
                if name not in data:
                    yield f"data.{name} is missing"

    def uses(self, key: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield "block_type", self.parts(key)["block_type"]
        yield from (("block", other) for other in _refs(values.get("data")) if not automations.is_id(other))

    def find(self, server: Server, key: str) -> Row | None:
        return server.api.find(f"{self.path(self.lookup, self.parts(key))}?include_secrets=true")

    def rows(self, server: Server) -> Iterator[Row]:
        return server.api.pages(self.listing, {"include_secrets": True})

    def key_of(self, row: Mapping[str, Any], server: Server) -> str | None:
        return f"{row['block_type']['slug']}/{row['name']}" if row.get("name") else None

    def shape(self, row: Mapping[str, Any], server: Server) -> Values:
        data = dict(row.get("data") or {})
        for name, reference in (row.get("block_document_references") or {}).items():
            document = reference.get("block_document") or {}
            if document.get("name"):
                data[name] = {"$ref": f"{document['block_type']['slug']}/{document['name']}"}
        # The server resolves references in top-level fields. Deeper ones it stores as they are sent.
        return {"data": _named_refs(data, server)}

    def canonical(self, values: Mapping[str, Any], server: Server) -> Values:
        data = values.get("data")
        return {} if data is None else {"data": _named_refs(data, server)}

    def target(self, wanted: Values, before: Values | None, *, keep: bool) -> tuple[Values, list[str]]:
        if before is None:
            return {"data": wanted.get("data") or {}}, []
        return super().target(wanted, before, keep=keep)

    def create(self, server: Server, key: str, values: Values) -> Row:
        parts = self.parts(key)
        schema = self._schema(server, parts["block_type"])
        body = {
            "name": parts["name"],
            "data": _with_ids(values["data"], server),
            "block_type_id": schema["block_type_id"],
            "block_schema_id": schema["id"],
        }
        row: Row = server.api.post(self.collection, body)
        return row

    def update(self, server: Server, todo: Plan) -> None:
        assert todo.row is not None
        schema = self._schema(server, self.parts(todo.key)["block_type"])
        # A merge by the server would drop the references to other blocks.
        body = {
            "data": _with_ids(todo.after["data"], server),
            "block_schema_id": schema["id"],
            "merge_existing_data": False,
        }
        server.api.call("PATCH", self.item_path(todo.row, todo.key), body)

    def shown(self, values: Mapping[str, Any], server: Server, key: str) -> Values:
        return self._shown(values, server, key)

    def secrets(self, values: Mapping[str, Any], server: Server, key: str) -> Iterator[str]:
        yield from hidden_texts(dict(values), self._shown(values, server, key, sure=True))
        yield from super().secrets(values, server, key)

    def suspects(self, entry: Mapping[str, Any], mask: Mask) -> Iterator[str]:
        names = {*self.keys, "block_type_slug", "type", "state"}
        yield from (text for name, value in entry.items() if name not in names for text in texts(value))

    def _shown(self, values: Mapping[str, Any], server: Server, key: str, *, sure: bool = False) -> Values:
        if not values.get("data"):
            return dict(values)
        schemas = block_schemas(server, self.parts(key)["block_type"])
        # A schema that does not exist yet marks no secrets, so every field is treated as one.
        hidden = {path for schema in schemas for path in secret_paths(schema["fields"])}
        hidden |= set() if schemas else {("*",)}
        return {**values, "data": server.mask.block(values["data"], hidden, sure=sure)}

    def _schema(self, server: Server, slug: str) -> Row:
        found = block_schemas(server, slug)
        if not found:
            raise Failure(f"the block type {slug} has no schema: give it one, or register it with Prefect")
        return found[0]


class Automation(Kind):
    """An automation. The server allows several of one name, so this class ensures that there is only one."""

    def renamed(self, entry: Values) -> Values:
        return rename(entry, is_active="enabled")

    def complaints(self, values: Mapping[str, Any]) -> Iterator[str]:
        if not str(values["name"]):
            yield "name is empty"
        if values.get("trigger") is not None:
            yield from automations.trigger_complaints(values["trigger"])
        for name in ("actions", "actions_on_trigger", "actions_on_resolve"):
            for index, action in enumerate(values.get(name) or []):
                yield from automations.action_complaints(action, f"{name}[{index}]")

    def uses(self, key: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from automations.references(values)

    def find(self, server: Server, key: str) -> Row | None:
        rows = self.namesakes(server, [key])
        if len(rows) > 1:
            listed = ", ".join(row["id"] for row in rows)
            raise Failure(f"there are {len(rows)} automations named {key} ({listed}): delete all but the one you mean")
        return rows[0] if rows else None

    def namesakes(self, server: Server, names: list[str]) -> list[Row]:
        """Return the automations with the given names, oldest first."""
        rows = server.api.pages(self.listing, {"automations": {"name": {"any_": names}}})
        return sorted(rows, key=lambda row: (row["created"], row["id"]))

    def shape(self, row: Mapping[str, Any], server: Server) -> Values:
        return {**super().shape(row, server), **self._canonical(row, server)}

    def canonical(self, values: Mapping[str, Any], server: Server) -> Values:
        given = {name: value for name, value in values.items() if value is not None}
        return {**super().canonical(given, server), **self._canonical(given, server)}

    def _canonical(self, values: Mapping[str, Any], server: Server) -> Values:
        after: Values = {}
        if values.get("trigger") is not None:
            after["trigger"] = automations.trigger_canonical(values["trigger"], server.name_of)
        for name in ("actions", "actions_on_trigger", "actions_on_resolve"):
            if values.get(name) is not None:
                after[name] = [automations.action_canonical(each, server.name_of) for each in values[name]]
        return after

    def body(self, values: Mapping[str, Any], server: Server) -> Row:
        after = dict(values)
        if "description" in after:
            after["description"] = after["description"] or ""
        if "trigger" in after:
            after["trigger"] = automations.trigger_to_server(after["trigger"], server.id_of)
        for name in ("actions", "actions_on_trigger", "actions_on_resolve"):
            if name in after:
                after[name] = [automations.action_to_server(each, server.id_of) for each in after[name]]
        return after

    def create(self, server: Server, key: str, values: Values) -> Row:
        given = {name: value for name, value in values.items() if value is not None}
        body = {"name": key, **self.body(given, server)}
        made: Row = server.api.call("POST", self.collection, body, repeatable=False).body
        return self.only(server, key, made)

    def only(self, server: Server, key: str, made: Row) -> Row:
        """Return the automation to keep if another client created one of the same name at the same time."""
        first = next(iter(self.namesakes(server, [key])), made)
        if first["id"] != made["id"]:
            server.api.call("DELETE", f"/automations/{made['id']}")
        return first

    def update(self, server: Server, todo: Plan) -> None:
        assert todo.row is not None
        path = f"/automations/{todo.row['id']}"
        if todo.changes.keys() == {"enabled"}:
            server.api.call("PATCH", path, todo.changes)
        else:
            server.api.call("PUT", path, {"name": todo.key, **self.body(todo.after, server)})


class Deployment(Kind):
    """A deployment. It is created as a whole, and changed where it differs: another POST would delete its schedules."""

    def rows(self, server: Server) -> Iterator[Row]:
        """Sort by age: the order of deployments that share a name changes from page to page."""
        return server.api.pages(self.listing, {"sort": "CREATED_DESC"})

    def renamed(self, entry: Values) -> Values:
        after = rename(dict(entry), flow_name="flow", work_pool_name="work_pool", work_queue_name="work_queue")
        if after.get("is_active") is not None:
            after.setdefault("paused", is_off(after["is_active"]))
        after.pop("is_active", None)
        single = after.pop("schedule", None)
        flat = {name: after.pop(name) for name in ("schedule_type", "schedule_config") if name in after}
        if single is None and any(value is not None for value in flat.values()):
            single = flat
        given = after.get("schedules")
        if given is None and single is not None:
            given = [single]
        if isinstance(given, list):
            words = [schedules.renamed(each) if isinstance(each, Mapping) else each for each in given]
            after["schedules"] = [
                each
                for each, old in zip(words, given, strict=True)
                if not (isinstance(each, Mapping) and (schedules.is_manual(each) or schedules.is_manual(old)))
            ]
        return after

    def complaints(self, values: Mapping[str, Any]) -> Iterator[str]:
        yield from named(values, "flow", "name")
        yield from at_least(values, "concurrency_limit", 1)
        if values.get("concurrency_limit") not in {None, -1} and values.get("global_concurrency_limit"):
            yield "concurrency_limit and global_concurrency_limit exclude each other"
        if values.get("work_queue") and values.get("work_pool") == "":
            yield "work_queue needs a work_pool"
        if values.get("environment"):
            if not re.fullmatch(ENVIRONMENT_NAME, str(values["environment"])):
                yield f"environment is {values['environment']!r}: the name of an entry of prefect_environments"
            if (values.get("job_variables") or {}).get("command"):
                yield "environment and job_variables.command exclude each other: the environment is a command"
        slugs = [each.get("slug") for each in values.get("schedules") or [] if each.get("slug")]
        for slug in sorted({slug for slug in slugs if slugs.count(slug) > 1}):
            yield f"the slug {slug} is that of several schedules"
        for index, each in enumerate(values.get("schedules") or []):
            yield from (f"schedules[{index}]: {complaint}" for complaint in schedules.complaints(each))
        if values.get("enforce_parameter_schema") is not False:
            yield from parameter_complaints(values.get("parameters"), values.get("parameter_openapi_schema"))

    def checks(self, todo: Plan, server: Server) -> Iterator[str]:
        after = todo.after
        if "parameters" in todo.changes and after.get("enforce_parameter_schema") is not False:
            yield from parameter_complaints(after["parameters"], after.get("parameter_openapi_schema"))
        if after.get("work_queue") and not after.get("work_pool"):
            yield "work_queue needs a work_pool"
        if after.get("environment"):
            name = after.get("work_pool") or (todo.row or {}).get("work_pool_name")
            pool = server.find("work_pool", name) if name else None
            if pool is not None and pool["type"] != "process":
                yield f"environment is for work pools of type process, and {name} is of type {pool['type']}"

    def inquiries(self, todos: Sequence[Plan], server: Server) -> Iterator[tuple[Plan, str]]:
        listed = [
            (todo, index, each)
            for todo in todos
            for index, each in enumerate(todo.changes.get("schedules") or [])
            if not any(same(each, other) for other in todo.diff["before"].get("schedules") or [])
        ]
        # The server judges equal schedules alike, so send each only once.
        distinct = {json.dumps(schedules.definition(each), sort_keys=True): each for _, _, each in listed}
        asked = dict(enumerate(distinct))
        if asked:
            reasons = schedules.refusals(server.api, list(distinct.values()))
            refused = {asked[index]: reason for index, reason in reasons.items()}
            for todo, index, each in listed:
                if reason := refused.get(json.dumps(schedules.definition(each), sort_keys=True)):
                    yield todo, f"schedules[{index}]: {reason}"

    def uses(self, key: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield "flow", self.parts(key)["flow"]
        if values.get("work_pool"):
            yield "work_pool", values["work_pool"]
            if values.get("work_queue") not in {None, "default"}:
                yield "work_queue", f"{values['work_pool']}/{values['work_queue']}"
        if values.get("global_concurrency_limit"):
            yield "global_concurrency_limit", values["global_concurrency_limit"]

    def references(self, todo: Plan) -> Iterator[tuple[str, str]]:
        values = dict(todo.changes)
        if "work_queue" in values and "work_pool" not in values:
            values["work_pool"] = todo.after.get("work_pool")
        # A missing flow is created.
        yield from (each for each in self.uses(todo.key, values) if each[0] != "flow")

    def key_of(self, row: Mapping[str, Any], server: Server) -> str | None:
        return f"{server.name_of('flow', row['flow_id'])}/{row['name']}"

    def shape(self, row: Mapping[str, Any], server: Server) -> Values:
        limit = row.get("global_concurrency_limit") or {}
        own = str(limit.get("name", "")).startswith("deployment:")
        return {
            **super().shape(row, server),
            **dict(zip(("environment", "job_variables"), environment_of(row.get("job_variables")), strict=True)),
            "concurrency_limit": limit.get("limit") if own else None,
            "global_concurrency_limit": None if own else limit.get("name"),
            "schedules": schedules.in_order(row.get("schedules") or []),
        }

    def canonical(self, values: Mapping[str, Any], server: Server) -> Values:
        after = super().canonical(values, server)
        if "work_pool" in after and after["work_pool"] is None:
            after["work_queue"] = None
        elif after.get("work_pool") and "work_queue" not in after:
            after[".queue"] = True
        if "job_variables" in after and "environment" not in after:
            # They replace the existing ones, the command as well.
            after["environment"], after["job_variables"] = environment_of(after["job_variables"])
        return after

    def target(self, wanted: Values, before: Values | None, *, keep: bool) -> tuple[Values, list[str]]:
        values = dict(wanted)
        follow = values.pop(".queue", False)
        kept: list[str] = []
        if before is None:
            after, kept = super().target(values, None, keep=keep)
            if "schedules" in after:
                after["schedules"] = [schedules.canonical(each) for each in after["schedules"]]
            return after, kept
        if follow and before["work_pool"] != values["work_pool"]:
            values["work_queue"] = "default"
        if values.get("concurrency_limit") is not None:
            values["global_concurrency_limit"] = None
        elif values.get("global_concurrency_limit") is not None:
            values["concurrency_limit"] = None
        if keep and values.get("paused") is False and before["paused"]:
            del values["paused"]
            kept.append("paused")
        listed = values.pop("schedules", None)
        after, _ = super().target(values, before, keep=keep)
        if listed is not None:
            after["schedules"] = []
            for each, present in schedules.pair(listed, before["schedules"]):
                if each is None:
                    continue
                schedule = schedules.merged(each, present or {})
                if keep and present and schedule.get("active") and not present["active"]:
                    schedule["active"] = False
                    kept.append(f"schedule {schedule.get('slug') or definition_text(schedule)} inactive")
                after["schedules"].append(schedule)
            before["schedules"] = _ordered(before["schedules"], after["schedules"])
            after["schedules"] = [schedules.canonical(each) for each in after["schedules"]]
            before["schedules"] = [schedules.canonical(each) for each in before["schedules"]]
        return after, kept

    def create(self, server: Server, key: str, values: Values) -> Row:
        parts = self.parts(key)
        listed = values.get("schedules") or []
        # If it were sent with the deployment itself, the server would drop this limit.
        apart = any(each.get("max_scheduled_runs") for each in listed)
        given = {name: value for name, value in values.items() if value is not None and name != "schedules"}
        body = {"name": parts["name"], "flow_id": self._flow(server, parts["flow"]), **self._plain(given, server)}
        if listed and not apart:
            body["schedules"] = [schedules.to_server(each) for each in listed]
        row: Row = server.api.post(self.collection, body)
        self._heeded(row, {name: given[name] for name in ("concurrency_options",) if name in given}, key, server)
        if apart:
            path = f"/deployments/{row['id']}/schedules"
            server.api.call("POST", path, [schedules.to_server(each) for each in listed], repeatable=False)
        return row

    def update(self, server: Server, todo: Plan) -> None:
        assert todo.row is not None
        path = f"/deployments/{todo.row['id']}"
        before, changes = self.shape(todo.row, server), dict(todo.changes)
        if {"work_pool", "work_queue"} & changes.keys():
            changes |= {name: todo.after[name] for name in ("work_pool", "work_queue")}
        if {"environment", "job_variables"} & changes.keys():
            changes.pop("environment", None)
            changes["job_variables"] = with_environment(todo.after["job_variables"], todo.after["environment"])
        if "parameters" in changes:
            changes["parameters"] = {name: _unhydrated(value) for name, value in changes["parameters"].items()}
        listed = changes.pop("schedules", None)
        # A null for its own limit would delete a limit that it shares, and a number would change it for all users.
        if before["global_concurrency_limit"] and changes.get("concurrency_limit") is not None:
            server.api.call("PATCH", path, {"global_concurrency_limit_id": None})
        elif before["concurrency_limit"] and changes.get("global_concurrency_limit") is not None:
            server.api.call("PATCH", path, {"concurrency_limit": None})
        for one, other in (
            ("concurrency_limit", "global_concurrency_limit"),
            ("global_concurrency_limit", "concurrency_limit"),
        ):
            if changes.get(one) is not None:
                changes.pop(other, None)
        if changes:
            server.api.call("PATCH", path, self._plain(changes, server))
        doubtful = {
            name: value
            for name, value in changes.items()
            if name in {"work_pool", "job_variables", "concurrency_options"} and (not value or name[0] == "c")
        }
        if "job_variables" in doubtful:
            doubtful["environment"] = None
        if doubtful:
            self._heeded(server.api.get(path), doubtful, todo.key, server)
        if listed is not None:
            self._schedules(server, path, todo.wanted["schedules"], todo.row, keep=todo.keep)

    def _heeded(self, row: Row, wanted: Values, key: str, server: Server) -> None:
        """Raise Failure if an older server has silently ignored a change."""
        now = self.shape(row, server)
        ignored = [name for name, value in wanted.items() if not same(now[name], value)]
        if ignored:
            raise Failure(
                f"deployment {key}: this version of Prefect does not change {', '.join(ignored)} as wanted. "
                "Upgrade it, leave the option out, or delete the deployment first (state: absent)"
            )

    def _schedules(self, server: Server, path: str, wanted: list[Values], row: Row, *, keep: bool) -> None:
        """Change only the schedules that differ."""
        made = []
        for each, present in schedules.pair(wanted, schedules.in_order(row["schedules"])):
            if each is None:
                assert present is not None
                server.api.call("DELETE", f"{path}/schedules/{present['id']}")
                continue
            after = schedules.merged(each, present or {})
            if present is None:
                made.append(after)
                continue
            if keep and not present["active"]:
                after["active"] = False
            if same(schedules.canonical(after), schedules.canonical(present)):
                continue
            if present["max_scheduled_runs"] and not after.get("max_scheduled_runs"):
                # The limit cannot be cleared.
                server.api.call("DELETE", f"{path}/schedules/{present['id']}")
                made.append(after)
            else:
                server.api.call("PATCH", f"{path}/schedules/{present['id']}", schedules.to_server(after))
        if made:
            body = [schedules.to_server(each) for each in made]
            server.api.call("POST", f"{path}/schedules", body, repeatable=False)

    def delete(self, server: Server, row: Row, key: str) -> None:
        limit = row.get("global_concurrency_limit") or {}
        if limit and not str(limit["name"]).startswith("deployment:"):
            # The server would also delete the shared limit.
            server.api.call("PATCH", f"/deployments/{row['id']}", {"global_concurrency_limit_id": None})
        super().delete(server, row, key)

    def _plain(self, values: Mapping[str, Any], server: Server) -> Row:
        apart = {"environment", "global_concurrency_limit"}
        body = self.body({name: value for name, value in values.items() if name not in apart}, server)
        if values.get("environment"):
            body["job_variables"] = with_environment(body.get("job_variables"), values["environment"])
        if "global_concurrency_limit" in values:
            limit = values["global_concurrency_limit"]
            body["global_concurrency_limit_id"] = limit and server.id_of("global_concurrency_limit", limit)
        return body

    def _flow(self, server: Server, name: str) -> str:
        found = server.find("flow", name)
        if found is None:
            found = server.api.post("/flows/", {"name": name})
            server.put("flow", name, found)
        return str(found["id"])


def _concurrency_options(value: Any) -> Any:
    return {name: each for name, each in value.items() if each is not None} or None if value else None


def definition_text(schedule: Mapping[str, Any]) -> str:
    """Return when a schedule fires, in a word or two."""
    return str(next((schedule[kind] for kind in schedules.KINDS if schedule.get(kind) is not None), ""))


def _ordered(before: list[Values], after: list[Values]) -> list[Values]:
    """Return the present schedules in the order of the new ones, so that order alone is not a difference."""
    places = {each.get("id"): place for place, each in enumerate(after)}
    return sorted(before, key=lambda each: places.get(each["id"], len(places)))


def parameter_complaints(parameters: Any, schema: Any) -> Iterator[str]:
    """Yield errors for parameters that certainly do not fit a flow's schema; the server judges the rest."""
    properties = (schema or {}).get("properties")
    if not isinstance(parameters, Mapping) or not isinstance(properties, Mapping) or not properties:
        return
    kinds: dict[str, tuple[type, ...]] = {
        "string": (str,),
        "integer": (int,),
        "number": (int, float),
        "boolean": (bool,),
        "array": (list,),
        "object": (dict,),
    }
    for name, value in parameters.items():
        about = properties.get(name)
        if about is None:
            near = difflib.get_close_matches(name, [each for each in properties if each not in parameters], n=1)
            if near or schema.get("additionalProperties") is False:
                yield f"parameters.{name} is unknown to the flow{choice(name, properties)}"
            continue
        kind = about.get("type") if isinstance(about, Mapping) else None
        if not isinstance(kind, str) or kind not in kinds or value is None or _is_template(value):
            continue
        fits = isinstance(value, kinds[kind]) and (kind == "boolean" or not isinstance(value, bool))
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            fits = True
        if not fits:
            yield f"parameters.{name} is {value!r}: it is of type {kind}"
        elif "enum" in about and value not in about["enum"]:
            yield f"parameters.{name} is {value!r}: one of {', '.join(map(repr, about['enum']))}"


def _is_template(value: Any) -> bool:
    return isinstance(value, Mapping) and "__prefect_kind" in value


def _unhydrated(value: Any) -> Any:
    """Encode a parameter so that an update stores it unchanged: unlike a creation, it evaluates templates."""
    if "__prefect_kind" not in json.dumps(value):
        return value
    return {"__prefect_kind": "json", "value": json.dumps(value)}


def block_schemas(server: Server, slug: str) -> list[Row]:
    """Return the schemas of a block type, newest first."""
    if slug not in server.schemas:
        kind = server.find("block_type", slug)
        body = {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}} if kind else None
        rows = server.api.pages("/block_schemas/filter", body) if body else ()
        server.schemas[slug] = sorted(rows, key=lambda row: row["created"], reverse=True)
    return server.schemas[slug]


def load_schemas(server: Server, slugs: Iterable[str]) -> None:
    """Read the schemas of several block types at once."""
    ids = {row["id"]: slug for slug in slugs if slug not in server.schemas and (row := server.find("block_type", slug))}
    found: dict[str, list[Row]] = {slug: [] for slug in ids.values()}
    if ids:
        for row in server.api.pages("/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": list(ids)}}}):
            found[ids[row["block_type_id"]]].append(row)
    for slug, rows in found.items():
        server.schemas[slug] = sorted(rows, key=lambda row: row["created"], reverse=True)


def definition(fields: Mapping[str, Any]) -> Values:
    """Return a block's schema as it was defined, without what the server adds."""
    return {name: value for name, value in fields.items() if name not in {"block_schema_references", "block_type_slug"}}


def secret_paths(fields: Mapping[str, Any]) -> set[tuple[str, ...]]:
    """Return the paths of the secret fields of a block's schema."""
    named_ones = {tuple(str(path).split(".")) for path in fields.get("secret_fields") or []}
    marked = {
        (name,)
        for name, about in (fields.get("properties") or {}).items()
        if isinstance(about, Mapping) and (about.get("writeOnly") or about.get("format") == "password")
    }
    return named_ones | marked


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _integers(each)
    elif isinstance(value, int):
        yield value


def _refs(value: Any) -> Iterator[str]:
    target = reference_to(value)
    if target is not None:
        yield target
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _refs(each)
    elif isinstance(value, list):
        for each in value:
            yield from _refs(each)


def _named_refs(value: Any, server: Server) -> Any:
    target = reference_to(value)
    if target is not None:
        return {"$ref": server.name_of("block", target)}
    if isinstance(value, Mapping):
        return {name: _named_refs(each, server) for name, each in value.items()}
    return [_named_refs(each, server) for each in value] if isinstance(value, list) else value


def _with_ids(value: Any, server: Server) -> Any:
    target = reference_to(value)
    if target is not None:
        return {"$ref": {"block_document_id": server.id_of("block", target)}}
    if isinstance(value, Mapping):
        return {name: _with_ids(each, server) for name, each in value.items()}
    return [_with_ids(each, server) for each in value] if isinstance(value, list) else value


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        BlockType(
            name="block_type",
            label="block type",
            level=0,
            keys=("slug",),
            collection="/block_types/",
            item="/block_types/{id}",
            lookup="/block_types/slug/{slug}",
            listing="/block_types/filter",
            fields={
                "name": Field(spec=TEXT, immutable=True),
                "description": Field(spec=TEXT, clear="", normalise=text),
                "logo_url": Field(spec=TEXT, clear="", normalise=text),
                "documentation_url": Field(spec=TEXT, clear="", normalise=text),
                "code_example": Field(spec=TEXT, clear="", normalise=text),
                "schema": Field(spec=DICT, normalise=lambda value: value and definition(value)),
                "capabilities": Field(spec=LIST, normalise=as_set),
            },
        ),
        Block(
            name="block",
            label="block",
            level=1,
            keys=("block_type", "name"),
            collection="/block_documents/",
            item="/block_documents/{id}",
            lookup="/block_types/slug/{block_type}/block_documents/name/{name}",
            listing="/block_documents/filter",
            fields={"data": Field(spec=DICT, required=True, partial=True)},
        ),
        Variable(
            name="variable",
            label="variable",
            collection="/variables/",
            item="/variables/name/{name}",
            listing="/variables/filter",
            fields={
                "value": Field(spec={"type": "raw"}, required=True),
                "tags": Field(spec=LIST, normalise=as_set),
            },
        ),
        Limit(
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
        ),
        TagLimit(
            name="tag_concurrency_limit",
            label="tag concurrency limit",
            keys=("tag",),
            collection="/concurrency_limits/",
            item="/concurrency_limits/{id}",
            lookup="/concurrency_limits/tag/{tag}",
            listing="/concurrency_limits/filter",
            fields={"concurrency_limit": Field(spec=INT, required=True)},
        ),
        Flow(
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
        ),
        WorkPool(
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
        ),
        WorkQueue(
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
        ),
        Deployment(
            name="deployment",
            label="deployment",
            level=4,
            keys=("flow", "name"),
            collection="/deployments/",
            item="/deployments/{id}",
            lookup="/deployments/name/{flow}/{name}",
            listing="/deployments/filter",
            recreatable=True,
            shows=("id", "status"),
            fields={
                "description": Field(spec=TEXT, clear="", normalise=text),
                "version": Field(spec=TEXT, clear="", normalise=text),
                "tags": Field(spec=LIST, normalise=as_set),
                "labels": Field(spec=DICT, normalise=mapping, immutable=True, partial=True),
                "entrypoint": Field(spec=TEXT, clear="", normalise=text),
                "path": Field(spec=TEXT, clear="", normalise=text),
                "pull_steps": Field(
                    spec={"type": "list", "elements": "dict"}, normalise=lambda value: list(value or ())
                ),
                "parameters": Field(spec=DICT, normalise=mapping),
                "parameter_openapi_schema": Field(spec=DICT),
                "enforce_parameter_schema": Field(spec=BOOL),
                "environment": Field(spec=TEXT, clear="", normalise=text),
                "job_variables": Field(spec=DICT, normalise=mapping),
                "work_pool": Field(spec=TEXT, clear="", normalise=text, api_name="work_pool_name"),
                "work_queue": Field(spec=TEXT, api_name="work_queue_name"),
                "concurrency_limit": Field(spec=INT, clear=-1),
                "global_concurrency_limit": Field(spec=TEXT, clear="", normalise=text),
                "concurrency_options": Field(spec=DICT, normalise=_concurrency_options),
                "paused": Field(spec=BOOL),
                "schedules": Field(
                    spec={"type": "list", "elements": "dict", "options": schedules.SCHEDULE_SPEC},
                    normalise=lambda value: list(value or ()),
                ),
            },
        ),
        Automation(
            name="automation",
            label="automation",
            level=5,
            collection="/automations/",
            item="/automations/{id}",
            listing="/automations/filter",
            fields={
                "description": Field(spec=TEXT, clear="", normalise=text),
                "enabled": Field(spec=BOOL),
                "tags": Field(spec=LIST, normalise=as_set),
                "trigger": Field(spec=DICT, required=True),
                "actions": Field(spec={"type": "list", "elements": "dict"}, required=True),
                "actions_on_trigger": Field(spec={"type": "list", "elements": "dict"}),
                "actions_on_resolve": Field(spec={"type": "list", "elements": "dict"}),
            },
        ),
    )
}


def listed(server: Server, names: Iterable[str], *, secrets: bool = False) -> dict[str, list[Values]]:
    """Return all objects of some kinds in the format of `resources`, keyed by its list names, except for Prefect's own.

    Applying the result changes nothing, unless secrets are hidden; with `secrets`, it includes them. Raises ApiError.
    """
    found: dict[str, list[Values]] = {}
    for name in names:
        kind = KINDS[name]
        rows = {key: row for key, row in server.load(name).items() if row is not None and not kind.is_system(row)}
        if name in {"block", "block_type"}:
            load_schemas(server, {key.split("/")[0] for key in rows})
        found[kind.list_name] = []
        for key, row in sorted(rows.items()):
            values = kind.shape(row, server)
            shown = values if secrets else kind.shown(values, server, key)
            found[kind.list_name].append({**kind.parts(key), **written(shown)})
    return found


def written(values: Values) -> Values:
    """Return fields as a user would write them: without what is not set and what the server adds."""
    after = {
        name: value
        for name, value in values.items()
        if value is not None and (value != {} or name in {"value", "data"})
    }
    labels = {name: value for name, value in after.pop("labels", {}).items() if not name.startswith("prefect.")}
    if labels:
        after["labels"] = labels
    if "schedules" in after:
        after["schedules"] = [schedules.canonical(each) for each in after["schedules"]]
    return after


def main(name: str, spec: Mapping[str, Any] | None = None, **more: Any) -> None:
    """Run the module of a kind. `spec` holds further options; `more` is passed to AnsibleModule."""
    run(KINDS[name], KINDS, spec, **more)
