"""Deployments, with their schedules, environments and parameters."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...api.client import Failure
from ..engine import Field, Kind, Plan, Row, Server, Values, same
from . import schedules
from .words import BOOL, DICT, INT, LIST, TEXT, as_set, at_least, choice, is_off, mapping, named, rename, text

ENVIRONMENT_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}"


ENVIRONMENT = "prefect-environment"
"""The program on the PATH of workers that runs a flow run with the packages of an environment."""


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

    def problems(self, values: Mapping[str, Any]) -> Iterator[str]:
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
            yield from (f"schedules[{index}]: {problem}" for problem in schedules.problems(each))
        if values.get("enforce_parameter_schema") is not False:
            yield from parameter_problems(values.get("parameters"), values.get("parameter_openapi_schema"))

    def checks(self, todo: Plan, server: Server) -> Iterator[str]:
        after = todo.after
        if "parameters" in todo.changes and after.get("enforce_parameter_schema") is not False:
            yield from parameter_problems(after["parameters"], after.get("parameter_openapi_schema"))
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


def parameter_problems(parameters: Any, schema: Any) -> Iterator[str]:
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


DEPLOYMENT = Deployment(
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
        "pull_steps": Field(spec={"type": "list", "elements": "dict"}, normalise=lambda value: list(value or ())),
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
)
