"""Automations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...api.client import Failure
from ..engine import Field, Kind, Plan, Row, Server, Values
from . import triggers
from .words import BOOL, DICT, LIST, TEXT, as_set, rename, text


class Automation(Kind):
    """An automation. The server allows several of one name, so this class ensures that there is only one."""

    def renamed(self, entry: Values) -> Values:
        return rename(entry, is_active="enabled")

    def problems(self, values: Mapping[str, Any]) -> Iterator[str]:
        if not str(values["name"]):
            yield "name is empty"
        if values.get("trigger") is not None:
            yield from triggers.trigger_problems(values["trigger"])
        for name in ("actions", "actions_on_trigger", "actions_on_resolve"):
            for index, action in enumerate(values.get(name) or []):
                yield from triggers.action_problems(action, f"{name}[{index}]")

    def uses(self, key: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from triggers.references(values)

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
            after["trigger"] = triggers.trigger_canonical(values["trigger"], server.name_of)
        for name in ("actions", "actions_on_trigger", "actions_on_resolve"):
            if values.get(name) is not None:
                after[name] = [triggers.action_canonical(each, server.name_of) for each in values[name]]
        return after

    def body(self, values: Mapping[str, Any], server: Server) -> Row:
        after = dict(values)
        if "description" in after:
            after["description"] = after["description"] or ""
        if "trigger" in after:
            after["trigger"] = triggers.trigger_to_server(after["trigger"], server.id_of)
        for name in ("actions", "actions_on_trigger", "actions_on_resolve"):
            if name in after:
                after[name] = [triggers.action_to_server(each, server.id_of) for each in after[name]]
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


AUTOMATION = Automation(
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
)
