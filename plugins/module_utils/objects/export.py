"""The objects of a Prefect server, written as a user would describe them in an inventory."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..api.client import ApiError
from ..api.masking import HIDDEN
from .engine import Kind, Server, Values, same
from .kinds import triggers
from .kinds.blocks import load_schemas
from .table import KINDS, written

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
"""Default values of the fields of a new object, by kind."""

POOLS_OWN = "The work pool's default queue."
"""The description that the server gives to the queue that it creates with a pool."""

SCHEDULE: Values = {"day_or": True, "timezone": "UTC", "active": True}

Lists = dict[str, list[Values]]
Place = list[str | int]
"""Keys and indices that lead to a value in the lists, starting with the list's name."""


@dataclass(kw_only=True)
class Exported:
    """Objects in the format of `resources`, keyed by its list names, and the references that replace their secrets.

    `variables` maps the name of each variable to its purpose, and `references` to the place of its reference in the
    lists: only those places hold templates. A text from the server may merely look like one.
    """

    lists: Lists = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    references: dict[str, Place] = field(default_factory=dict)

    def refer(self, place: Place, about: str) -> str:
        """Return the reference to put into a place, to a new variable named after its purpose."""
        name = reference_name(about, self.variables)
        self.variables[name] = about
        self.references[name] = place
        return f"{{{{ {name} }}}}"


def export(server: Server, names: Iterable[str], *, secrets: str) -> Exported:
    """Return all objects of some kinds, in the shortest form that `resources` accepts.

    `secrets` is `variables` (replace secrets by references to variables), `omitted` (leave them out) or `clear` (keep
    them). Prefect's own objects are left out, and so are flows that their deployments create. Raises ApiError.
    """
    found = Exported()
    for name in sorted(names, key=lambda name: KINDS[name].level):
        kind = KINDS[name]
        rows = {key: row for key, row in server.load(name).items() if row is not None and exported(kind, row)}
        if name in {"block", "block_type"}:
            load_schemas(server, {key.split("/")[0] for key in rows})
        if name == "block_type":
            rows = {key: row for key, row in rows.items() if not packaged(server, key)}
        templates = job_templates(server) if name == "work_pool" and rows else {}
        entries: list[Values] = []
        for key, row in sorted(rows.items()):
            values = kind.shape(row, server)
            if name == "work_pool" and same(values["base_job_template"], templates.get(values["type"])):
                del values["base_job_template"]
            fields = short(kind, row, written(values))
            shown = fields if secrets == "clear" else kind.shown(fields, server, key)
            if secrets == "omitted":
                fields = without_secrets(kind, fields, shown)
            else:
                about = key if name == "block" else f"{kind.list_name}/{key}"
                place: Place = [kind.list_name, len(entries)]
                fields = {
                    word: with_references(found, value, shown[word], [*place, word], about_of(about, word))
                    for word, value in fields.items()
                }
            if fields or name not in {"flow", "work_queue"}:
                entries.append({**kind.parts(key), **fields})
        if entries:
            found.lists[kind.list_name] = entries
    return found


def exported(kind: Kind, row: Mapping[str, Any]) -> bool:
    """Return whether an object is a user's and can be described. A user may have changed a pool's own queue."""
    if kind.name == "variable" and row.get("value") is None:
        return False
    if kind.name == "work_queue":
        return not str(row.get("work_pool_name")).lower().startswith("prefect")
    return not kind.is_system(row)


def packaged(server: Server, slug: str) -> bool:
    """Return whether a block type comes with a package: its schema then has the version of that package."""
    return any(re.match(r"\d+\.\d", str(schema.get("version"))) for schema in server.schemas.get(slug, []))


def short(kind: Kind, row: Mapping[str, Any], values: Values) -> Values:
    """Return the fields of an object without those that a new one has by default."""
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
            after[name] = [without(each, triggers.ACTIONS.get(each["type"], {})) for each in after[name]]
    return after


def without(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Values:
    """Return fields without those that are unset or at their default."""
    return {
        name: value
        for name, value in values.items()
        if value is not None and not (name in defaults and same(value, defaults[name]))
    }


def short_trigger(trigger: Values) -> Values:
    """Return a canonical trigger as a user would write it."""
    after = without(trigger, {**triggers.TRIGGERS.get(trigger["type"], {}), "type": "event", "match_related": []})
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


def about_of(about: str, name: Any) -> str:
    """Return the purpose of a value in one line; `about` is its object. A block's `data` is not part of it."""
    text = " ".join(str(name).split())
    return about if text == "data" and "prefect_" not in about else f"{about}/{text}"


def with_references(found: Exported, value: Any, shown: Any, place: Place, about: str) -> Any:
    """Return a value with each part that `shown` hides replaced by a reference to a variable."""
    if shown == HIDDEN and value != HIDDEN:
        return found.refer(place, about)
    if isinstance(value, Mapping):
        return {
            name: with_references(found, each, shown[name], [*place, name], about_of(about, name))
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [
            with_references(found, each, other, [*place, index], f"{about}/{index}")
            for index, (each, other) in enumerate(zip(value, shown, strict=True))
        ]
    return value


def without_secrets(kind: Kind, fields: Values, shown: Values) -> Values:
    """Return fields without what `shown` hides.

    A field that is always written as a whole is left out as a whole, because a part of it would replace the rest: so it
    stays as it is.
    """
    after: Values = {}
    for name, value in fields.items():
        if kind.fields[name].partial and isinstance(value, Mapping):
            after[name] = {key: each for key, each in value.items() if same(each, shown[name][key])}
        elif same(value, shown[name]):
            after[name] = value
    return after


def reference_name(about: str, taken: Container[str]) -> str:
    """Return the name of a new variable, after its purpose."""
    name = first = "vault_" + re.sub(r"\W+", "_", about.lower(), flags=re.ASCII).strip("_")
    number = 1
    while name in taken:
        number += 1
        name = f"{first}_{number}"
    return name


def job_templates(server: Server) -> Values:
    """Return the default job templates of pools by type, as far as the server knows them."""
    try:
        packages = server.api.get("/collections/views/aggregate-worker-metadata")
    except ApiError:
        return {}
    return {
        kind: about.get("default_base_job_configuration")
        for package in packages.values()
        for kind, about in package.items()
    }
