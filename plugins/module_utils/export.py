"""What is inside a Prefect, written down as somebody would who had made it by an inventory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from . import automations
from .api import ApiError
from .kinds import KINDS, load_schemas, written
from .resource import HIDDEN, Kind, Server, Values, same

DEFAULTS: dict[str, Values] = {
    "block_type": {"capabilities": []},
    "variable": {"tags": []},
    "global_concurrency_limit": {"active": True, "slot_decay_per_second": 0.0},
    "flow": {"tags": []},
    "work_pool": {"is_paused": False, "base_job_template": {}},
    "work_queue": {"is_paused": False},
    "deployment": {
        "tags": [],
        "pull_steps": [],
        "enforce_parameter_schema": True,
        "work_queue": "default",
        "paused": False,
        "schedules": [],
    },
    "automation": {"enabled": True, "tags": [], "actions_on_trigger": [], "actions_on_resolve": []},
}
"""What a new object of each kind is where nothing is said of a field."""

POOLS_OWN = "The work pool's default queue."
"""What the server says of a queue that it makes with a pool."""

SCHEDULE: Values = {"day_or": True, "timezone": "UTC", "active": True}

Lists = dict[str, list[Values]]


def export(server: Server, names: Iterable[str], *, secrets: str) -> tuple[Lists, dict[str, str]]:
    """Return all objects of some kinds as short as `resources` takes them, by its names for the lists.

    Secrets of blocks become references to variables, which are returned with what each is for, are left out, or stay:
    `secrets` is `variables`, `omitted` or `clear`. What belongs to Prefect itself is left out, and so are flows that
    their deployments bring along. Raises ApiError.
    """
    lists: Lists = {}
    variables: dict[str, str] = {}
    for name in sorted(names, key=lambda name: KINDS[name].level):
        kind = KINDS[name]
        rows = {key: row for key, row in server.load(name).items() if row is not None and exported(kind, row)}
        if name in {"block", "block_type"}:
            load_schemas(server, {key.split("/")[0] for key in rows})
        if name == "block_type":
            rows = {key: row for key, row in rows.items() if not packaged(server, key)}
        templates = job_templates(server) if name == "work_pool" and rows else {}
        entries = []
        for key, row in sorted(rows.items()):
            values = kind.shape(row, server)
            if name == "block" and secrets != "clear":
                shown = kind.shown(values, server, key)["data"]
                place = {} if secrets == "omitted" else variables
                values = {"data": without_secrets(values["data"], shown, key, place, omit=secrets == "omitted")}
            if name == "work_pool" and same(values["base_job_template"], templates.get(values["type"])):
                del values["base_job_template"]
            fields = short(kind, row, written(values))
            if fields or name not in {"flow", "work_queue"}:
                entries.append({**kind.parts(key), **fields})
        if entries:
            lists[kind.list_name] = entries
    return lists, variables


def exported(kind: Kind, row: Mapping[str, Any]) -> bool:
    """Return whether an object is a person's and can be described. A pool's own queue may have been changed by one."""
    if kind.name == "variable" and row.get("value") is None:
        return False
    if kind.name == "work_queue":
        return not str(row.get("work_pool_name")).lower().startswith("prefect")
    return not kind.is_system(row)


def packaged(server: Server, slug: str) -> bool:
    """Return whether a block type comes with a package: its schema is of a version of that."""
    return any(re.match(r"\d+\.\d", str(schema.get("version"))) for schema in server.schemas.get(slug, []))


def short(kind: Kind, row: Mapping[str, Any], values: Values) -> Values:
    """Return the fields of an object without those that a new one has anyway."""
    defaults = DEFAULTS.get(kind.name, {})
    after = {name: value for name, value in values.items() if not (name in defaults and same(value, defaults[name]))}
    if kind.name == "work_queue" and row["name"] == "default":
        after.pop("priority", None)
        after = without(after, {"description": POOLS_OWN})
    if kind.name == "block_type" and after.get("name") == row["slug"].replace("-", " ").title():
        del after["name"]
    if kind.name == "deployment" and "work_pool" not in after:
        after.pop("work_queue", None)
    if not (after.get("parameter_openapi_schema") or {}).get("properties"):
        after.pop("parameter_openapi_schema", None)
    if "schedules" in after:
        after["schedules"] = [without(each, SCHEDULE) for each in after["schedules"]]
    if "trigger" in after:
        after["trigger"] = short_trigger(after["trigger"])
    for name in ("actions", "actions_on_trigger", "actions_on_resolve"):
        if name in after:
            after[name] = [without(each, automations.ACTIONS.get(each["type"], {})) for each in after[name]]
    return after


def without(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Values:
    """Return fields without those that are at their default, or nothing at all."""
    return {
        name: value
        for name, value in values.items()
        if value is not None and not (name in defaults and same(value, defaults[name]))
    }


def short_trigger(trigger: Values) -> Values:
    """Return a canonical trigger as somebody would write it."""
    after = without(trigger, {**automations.TRIGGERS.get(trigger["type"], {}), "type": "event", "match_related": []})
    if "match" in after:
        after["match"] = {label: one(values) for label, values in after["match"].items()}
    if "match_related" in after:
        after["match_related"] = one(
            [{label: one(values) for label, values in each.items()} for each in after["match_related"]]
        )
    if "triggers" in after:
        after["triggers"] = [short_trigger(each) for each in after["triggers"]]
    return after


def one(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def without_secrets(value: Any, shown: Any, place: str, variables: dict[str, str], *, omit: bool) -> Any:
    """Return fields of a block with each that is hidden in `shown` left out, or else a reference to a variable.

    The variables that this takes are put into `variables`, with the `place` that each is for.
    """
    if shown == HIDDEN and value != HIDDEN:
        return reference(place, variables)
    if isinstance(value, Mapping):
        return {
            name: without_secrets(each, shown[name], f"{place}/{name}", variables, omit=omit)
            for name, each in value.items()
            if not (omit and shown[name] == HIDDEN)
        }
    if isinstance(value, list):
        return [
            without_secrets(each, other, f"{place}/{index}", variables, omit=omit)
            for index, (each, other) in enumerate(zip(value, shown, strict=True))
        ]
    return value


def reference(place: str, variables: dict[str, str]) -> str:
    """Return a reference to a variable that is named like the place in a block that it is for."""
    name = first = "vault_" + re.sub(r"\W+", "_", place.lower(), flags=re.ASCII).strip("_")
    number = 1
    while name in variables:
        number += 1
        name = f"{first}_{number}"
    variables[name] = place
    return f"{{{{ {name} }}}}"


def job_templates(server: Server) -> Values:
    """Return by type the job template that a pool gets when none is given, as far as the server knows it."""
    try:
        packages = server.api.get("/collections/views/aggregate-worker-metadata")
    except ApiError:
        return {}
    return {
        kind: about.get("default_base_job_configuration")
        for package in packages.values()
        for kind, about in package.items()
    }
