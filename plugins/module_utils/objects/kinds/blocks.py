"""Block types and blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...api.client import Failure
from ...api.masking import Mask, hidden_texts, reference_to, texts
from ..engine import Field, Kind, Plan, Row, Server, Values, same
from . import triggers
from .words import DICT, LIST, TEXT, as_set, choice, named, rename, text


class BlockType(Kind):
    """A type of block. Schemas define the fields of its blocks; the newest applies."""

    def is_system(self, row: Mapping[str, Any]) -> bool:
        return bool(row.get("is_protected"))

    def problems(self, values: Mapping[str, Any]) -> Iterator[str]:
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

    def problems(self, values: Mapping[str, Any]) -> Iterator[str]:
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
        yield from (("block", other) for other in _refs(values.get("data")) if not triggers.is_id(other))

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


BLOCK_TYPE = BlockType(
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
)


BLOCK = Block(
    name="block",
    label="block",
    level=1,
    keys=("block_type", "name"),
    collection="/block_documents/",
    item="/block_documents/{id}",
    lookup="/block_types/slug/{block_type}/block_documents/name/{name}",
    listing="/block_documents/filter",
    fields={"data": Field(spec=DICT, required=True, partial=True)},
)
