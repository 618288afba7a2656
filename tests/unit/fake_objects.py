"""What the fake API holds besides work pools and flow runs, with the server's traps.

A deployment that is posted again loses its schedules, a schedule that is patched loses its parameters, automations
may share a name, a block that is merged loses what it refers to, and with a deployment goes the limit that it shares.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

NO_DEPLOYMENT = "00000000-0000-0000-0000-000000000000"
Row = dict[str, Any]
Reply = tuple[int, Any]
NOT_FOUND = {"detail": "No such object."}
CONFLICT = {"detail": "Data integrity conflict. This usually means a unique or foreign key constraint was violated."}
SECRET_FIELDS = {
    "title": "Secret",
    "type": "object",
    "properties": {"value": {"type": "string", "format": "password", "writeOnly": True}},
    "required": ["value"],
    "secret_fields": ["value"],
    "block_type_slug": "secret",
}


def now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


def row(**fields: Any) -> Row:
    return {"id": str(uuid.uuid4()), "created": now(), "updated": now(), **fields}


def queue(pool: str, name: str, **fields: Any) -> Row:
    given = {"description": "", "is_paused": False, "concurrency_limit": None, "priority": 1, **fields}
    return row(name=name, work_pool_name=pool, status="NOT_READY", **given)


def schedule(deployment: str, body: Mapping[str, Any]) -> Row:
    """Return a schedule as the server completes it."""
    return row(
        deployment_id=deployment,
        schedule=definition(body["schedule"]),
        active=body.get("active", True),
        max_scheduled_runs=body.get("max_scheduled_runs"),
        parameters=body.get("parameters") or {},
        slug=body.get("slug"),
    )


def definition(given: Mapping[str, Any]) -> Row:
    if "cron" in given:
        return {"cron": given["cron"], "timezone": given.get("timezone"), "day_or": given.get("day_or", True)}
    if "interval" in given:
        anchor = given.get("anchor_date") or now()
        return {
            "interval": timedelta(seconds=given["interval"]).total_seconds(),
            "anchor_date": str(anchor).replace("+00:00", "Z"),
            "timezone": given.get("timezone") or "UTC",
        }
    rule = given["rrule"]
    if "DTSTART" not in rule:
        rule = f"DTSTART:20200101T000000\n{rule}"
    return {"rrule": rule, "timezone": given.get("timezone") or "UTC"}


def refused(given: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Yield type, field and message of what is wrong with a schedule."""
    zones = ("Europe/Berlin", "Europe/Paris", "UTC", "America/New_York")
    if given.get("timezone") not in (None, *zones):
        pattern = "|".join(zones)
        yield "string_pattern_mismatch", "timezone", f"String should match pattern '{pattern}'"
    cron = given.get("cron")
    if (cron is not None and not re.fullmatch(r"[\d*/,-]+( [\w*/,-]+){4}|@\w+", cron)) or (
        cron is not None and int((re.match(r"\d+", cron) or ["0"])[0]) > 59
    ):
        yield "value_error", "cron", f'Value error, Invalid cron string: "{cron}"'
    rule = given.get("rrule")
    if rule is not None and not re.search(r"FREQ=(MINUTELY|HOURLY|DAILY|WEEKLY|MONTHLY|YEARLY)", rule):
        yield "value_error", "rrule", f'Value error, Invalid RRule string "{rule}"'


def deployment(**fields: Any) -> Row:
    base: Row = {
        "version": None,
        "description": None,
        "paused": False,
        "schedules": [],
        "concurrency_limit": None,
        "global_concurrency_limit": None,
        "concurrency_options": None,
        "job_variables": {},
        "parameters": {},
        "tags": [],
        "labels": {"prefect.flow.id": fields["flow_id"]},
        "work_queue_name": "default" if fields.get("work_pool_name") else None,
        "work_pool_name": None,
        "parameter_openapi_schema": {},
        "enforce_parameter_schema": True,
        "path": None,
        "pull_steps": [],
        "entrypoint": None,
        "status": "NOT_READY",
    }
    return {**row(), **base, **fields}


class Objects:
    """Rows by id, of each kind."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Row]] = defaultdict(dict)
        kind = self.add("block_types", name="Secret", slug="secret", is_protected=True, logo_url=None)
        self.add("block_schemas", block_type_id=kind["id"], fields=SECRET_FIELDS, capabilities=[], version="1")

    def add(self, kind: str, **fields: Any) -> Row:
        made = row(**fields)
        self.rows[kind][made["id"]] = made
        return made

    def of(self, kind: str) -> list[Row]:
        return list(self.rows[kind].values())

    def first(self, kind: str, **wanted: Any) -> Row | None:
        return next((each for each in self.of(kind) if all(each[name] == wanted[name] for name in wanted)), None)


def page(rows: list[Row], body: Any) -> Reply:
    limit = body.get("limit", 200)
    if limit > 200:
        return 422, {"exception_message": "Invalid request received."}
    return 200, rows[body.get("offset", 0) :][:limit]


def found(each: Row | None) -> Reply:
    return (404, NOT_FOUND) if each is None else (200, each)


def plain(kind: str, unique: str, defaults: Mapping[str, Any]) -> tuple[Callable[..., Reply], ...]:
    """Return create, read by name, update and delete of a kind that has no traps."""

    def create(api: Any, body: Any) -> Reply:
        if api.objects.first(kind, **{unique: body[unique]}):
            return 409, CONFLICT
        return 201, api.objects.add(kind, **{**defaults, **body})

    def read(api: Any, name: str, body: Any) -> Reply:
        return found(api.objects.first(kind, **{unique: name}))

    def update(api: Any, name: str, body: Any) -> Reply:
        each = api.objects.rows[kind].get(name) or api.objects.first(kind, **{unique: name})
        if each is None:
            return 404, NOT_FOUND
        each.update(body)
        return 204, None

    def delete(api: Any, name: str, body: Any) -> Reply:
        each = api.objects.rows[kind].get(name) or api.objects.first(kind, **{unique: name})
        if each is None:
            return 404, NOT_FOUND
        del api.objects.rows[kind][each["id"]]
        return 204, None

    return create, read, update, delete


def filter_variables(api: Any, body: Any) -> Reply:
    like = ((body.get("variables") or {}).get("name") or {}).get("like_", "")
    return page([each for each in api.objects.of("variables") if like in each["name"]], body)


def create_variable(api: Any, body: Any) -> Reply:
    if len(json.dumps(body["value"])) > 5000:
        return 422, {"exception_message": "Variable value must be less than 5000 characters"}
    return VARIABLE[0](api, body)


def create_queue(api: Any, pool: str, body: Any) -> Reply:
    if pool not in api.pools:
        return 404, NOT_FOUND
    if (pool, body["name"]) in api.queues:
        return 409, CONFLICT
    taken = [each["priority"] for each in siblings(api, pool)]
    made = queue(pool, **{"priority": max(taken, default=0) + 1, **body})
    push(api, pool, made["priority"])
    api.queues[(pool, body["name"])] = made
    return 201, made


def siblings(api: Any, pool: str) -> list[Row]:
    return [each for (inside, _), each in api.queues.items() if inside == pool]


def push(api: Any, pool: str, priority: int) -> None:
    """Move the queues of a pool back to make room."""
    if any(each["priority"] == priority for each in siblings(api, pool)):
        for each in siblings(api, pool):
            if each["priority"] >= priority:
                each["priority"] += 1


def read_queue(api: Any, pool: str, name: str, body: Any) -> Reply:
    return found(api.queues.get((pool, name)))


def update_queue(api: Any, pool: str, name: str, body: Any) -> Reply:
    each = api.queues.get((pool, name))
    if each is None:
        return 404, NOT_FOUND
    if "description" in body and body["description"] is None:
        return 409, CONFLICT
    if body.get("priority") not in {None, each["priority"]}:
        each["priority"] = 0
        push(api, pool, body["priority"])
    each.update(body)
    return 204, None


def delete_queue(api: Any, pool: str, name: str, body: Any) -> Reply:
    if name == "default":
        return 500, {"exception_message": "Internal Server Error"}
    return (204, None) if api.queues.pop((pool, name), None) else (404, NOT_FOUND)


def upsert_tag_limit(api: Any, body: Any) -> Reply:
    limit = api.objects.first("limits", name=f"tag:{body['tag']}")
    if limit is None:
        made = api.objects.add("limits", name=f"tag:{body['tag']}", limit=body["concurrency_limit"], **LIMIT_DEFAULTS)
        return 201, tag_limit(made)
    limit["limit"] = body["concurrency_limit"]
    return 200, tag_limit(limit)


def tag_limit(each: Row) -> Row:
    return {
        **{name: each[name] for name in ("id", "created", "updated")},
        "tag": each["name"].removeprefix("tag:"),
        "concurrency_limit": each["limit"],
        "active_slots": [],
    }


def filter_tag_limits(api: Any, body: Any) -> Reply:
    """As Prefect does it: the page is cut of all limits, and those of tags are picked from it then."""
    limits = sorted(api.objects.of("limits"), key=lambda each: str(each["name"]))[: body["offset"] + body["limit"]]
    return page([tag_limit(each) for each in limits if each["name"].startswith("tag:")], body)


def read_tag_limit(api: Any, tag: str, body: Any) -> Reply:
    each = api.objects.first("limits", name=f"tag:{tag}")
    return found(each and tag_limit(each))


def create_flow(api: Any, body: Any) -> Reply:
    for each in api.flows.values():
        if each["name"] == body["name"]:
            return 200, each
    made = row(**{"tags": [], "labels": {}, **body})
    api.flows[made["id"]] = made
    return 201, made


def read_flow(api: Any, name: str, body: Any) -> Reply:
    return found(next((each for each in api.flows.values() if each["name"] == name), None))


def update_flow(api: Any, flow: str, body: Any) -> Reply:
    if "labels" in body:
        return 422, {"exception_message": "labels: Extra inputs are not permitted"}
    api.flows[flow].update(body)
    return 204, None


def delete_flow(api: Any, flow: str, body: Any) -> Reply:
    for key in [key for key, each in api.deployments.items() if each["flow_id"] == flow]:
        del api.deployments[key]
    return (204, None) if api.flows.pop(flow, None) else (404, NOT_FOUND)


def create_schema(api: Any, body: Any) -> Reply:
    for each in api.objects.of("block_schemas"):
        known = (each["fields"], each["block_type_id"], each["version"])
        if known == (stored(body), body["block_type_id"], body.get("version", "non-versioned")):
            return 200, each
    given = {"capabilities": [], "version": "non-versioned", **body, "fields": stored(body)}
    return 201, api.objects.add("block_schemas", **given)


def stored(body: Any) -> Row:
    return {**body["fields"], "block_schema_references": {}}


def filter_schemas(api: Any, body: Any) -> Reply:
    wanted = body["block_schemas"]["block_type_id"]["any_"]
    return page([each for each in api.objects.of("block_schemas") if each["block_type_id"] in wanted], body)


def document(api: Any, each: Row, *, secrets: bool) -> Row:
    """Return a block as it is read: with what it refers to in its place, and without its secrets."""
    schema = api.objects.rows["block_schemas"][each["block_schema_id"]]
    kind = api.objects.rows["block_types"][each["block_type_id"]]
    data = dict(each["data"])
    references = {}
    for name, value in each["data"].items():
        if isinstance(value, dict) and "$ref" in value:
            other = api.objects.rows["block_documents"].get(value["$ref"]["block_document_id"])
            if other is None:
                continue
            inner = document(api, other, secrets=secrets)
            data[name] = inner["data"]
            references[name] = {"block_document": {**inner, "block_type": inner["block_type"]}}
    if not secrets:
        for name in schema["fields"].get("secret_fields", []):
            if name in data:
                data[name] = "********"
    return {
        **each,
        "data": data,
        "block_type": kind,
        "block_schema": schema,
        "block_document_references": references,
        "is_anonymous": False,
    }


def create_document(api: Any, body: Any) -> Reply:
    if api.objects.first("block_documents", name=body["name"], block_type_id=body["block_type_id"]):
        return 409, {"detail": "Block already exists"}
    return 201, document(api, api.objects.add("block_documents", **body), secrets=False)


def read_document(api: Any, slug: str, name: str, body: Any) -> Reply:
    kind = api.objects.first("block_types", slug=slug)
    each = kind and api.objects.first("block_documents", name=name, block_type_id=kind["id"])
    return found(each and document(api, each, secrets=bool(body)))


def filter_documents(api: Any, body: Any) -> Reply:
    secrets = body.get("include_secrets", False)
    return page([document(api, each, secrets=secrets) for each in api.objects.of("block_documents")], body)


def update_document(api: Any, key: str, body: Any) -> Reply:
    each = api.objects.rows["block_documents"].get(key)
    if each is None:
        return 404, NOT_FOUND
    if body.pop("merge_existing_data", True):
        kept = {name: value for name, value in each["data"].items() if not isinstance(value, dict)}
        body["data"] = {**kept, **body["data"]}
    each.update(body)
    return 204, None


def create_deployment(api: Any, body: Any) -> Reply:
    if body.get("work_pool_name") and body["work_pool_name"] not in api.pools:
        return 404, {"detail": f'Work pool "{body["work_pool_name"]}" not found.'}
    known = [
        each for each in api.deployments.values() if (each["flow_id"], each["name"]) == (body["flow_id"], body["name"])
    ]
    made = known[0] if known else deployment(flow_id=body["flow_id"], name=body["name"])
    api.deployments[made["id"]] = made
    listed = [{**each, "max_scheduled_runs": None} for each in body.get("schedules", [])]
    made["schedules"] = [schedule(made["id"], each) for each in listed]
    given = {name: value for name, value in body.items() if name not in {"schedules", "labels"}}
    made["labels"] = {**made["labels"], **body.get("labels", {})}
    write(api, made, {"work_queue_name": "default" if body.get("work_pool_name") else None, **given})
    return (200 if known else 201), shown(api, made)


def write(api: Any, each: Row, body: Row) -> None:
    if "concurrency_limit" in body:
        limit = body.pop("concurrency_limit")
        present = each["global_concurrency_limit"]
        if limit is None and present:
            api.objects.rows["limits"].pop(present["id"], None)
            each["global_concurrency_limit"] = None
        elif limit is not None and present:
            present["limit"] = limit
        elif limit is not None:
            name = f"deployment:{each['id']}"
            each["global_concurrency_limit"] = api.objects.add("limits", name=name, limit=limit, **LIMIT_DEFAULTS)
    if "global_concurrency_limit_id" in body:
        each["global_concurrency_limit"] = api.objects.rows["limits"].get(body.pop("global_concurrency_limit_id"))
    if "work_pool_name" in body and body["work_pool_name"] is None:
        body["work_queue_name"] = None
    each.update(body)


def shown(api: Any, each: Row) -> Row:
    """Return a deployment as it is read: the newest schedule first."""
    limit = each["global_concurrency_limit"]
    if limit and limit["id"] not in api.objects.rows["limits"]:
        each["global_concurrency_limit"] = None
    return {**each, "schedules": each["schedules"][::-1]}


def filter_deployments(api: Any, body: Any) -> Reply:
    pools = ((body.get("work_pools") or {}).get("name") or {}).get("any_")
    keys = ((body.get("deployments") or {}).get("id") or {}).get("any_")
    rows = [each for each in api.deployments.values() if pools is None or each["work_pool_name"] in pools]
    rows = [each for each in rows if keys is None or each["id"] in keys]
    return page([shown(api, each) for each in rows], body)


def read_deployment_by_id(api: Any, key: str, body: Any) -> Reply:
    each = api.deployments.get(key)
    return found(each and shown(api, each))


def update_deployment(api: Any, key: str, body: Any) -> Reply:
    each = api.deployments.get(key)
    if each is None:
        return 404, NOT_FOUND
    if "labels" in body or "schedules" in body:
        return 422, {"exception_message": "Invalid request received."}
    if "parameters" in body:
        body["parameters"] = {name: hydrated(value) for name, value in body["parameters"].items()}
    write(api, each, dict(body))
    return 204, None


def hydrated(value: Any) -> Any:
    """Return a parameter as a change stores it."""
    kind = value.get("__prefect_kind") if isinstance(value, dict) else None
    return json.loads(value["value"]) if kind == "json" else "evaluated" if kind else value


def delete_deployment(api: Any, key: str, body: Any) -> Reply:
    each = api.deployments.pop(key, None)
    if each is None:
        return 404, NOT_FOUND
    if each["global_concurrency_limit"]:
        api.objects.rows["limits"].pop(each["global_concurrency_limit"]["id"], None)
    return 204, None


def create_schedules(api: Any, key: str, body: Any) -> Reply:
    details = [
        {"type": kind, "loc": ["body", index, "schedule", field], "msg": message}
        for index, each in enumerate(body)
        for kind, field, message in refused(each["schedule"])
    ]
    if details:
        return 422, {"exception_message": "Invalid request received.", "exception_detail": details}
    each = api.deployments.get(key)
    if each is None:
        return 404, {"detail": "Deployment not found."}
    slugs = {other["slug"] for other in each["schedules"] if other["slug"]}
    if slugs & {given.get("slug") for given in body}:
        return 409, CONFLICT
    made = [schedule(key, given) for given in body]
    each["schedules"] += made
    return 201, made


def update_schedule(api: Any, key: str, schedule_id: str, body: Any) -> Reply:
    for each in api.deployments[key]["schedules"]:
        if each["id"] == schedule_id:
            given = {"parameters": {}, **{name: value for name, value in body.items() if value is not None}}
            if "schedule" in given:
                given["schedule"] = definition(given["schedule"])
            each.update(given)
            return 204, None
    return 404, NOT_FOUND


def delete_schedule(api: Any, key: str, schedule_id: str, body: Any) -> Reply:
    listed = api.deployments[key]["schedules"]
    kept = [each for each in listed if each["id"] != schedule_id]
    if len(kept) == len(listed):
        return 404, NOT_FOUND
    api.deployments[key]["schedules"] = kept
    return 204, None


def automation(body: Any) -> Row:
    """Return an automation as the server completes it."""
    base = {"description": "", "enabled": True, "tags": [], "actions_on_trigger": [], "actions_on_resolve": []}
    made: Row = microseconds({**base, **body, "trigger": {**body["trigger"], "id": str(uuid.uuid4())}})
    return made


def microseconds(given: Any) -> Any:
    """Return an automation with its durations in whole microseconds, as the server stores them."""
    if isinstance(given, list):
        return [microseconds(each) for each in given]
    if not isinstance(given, dict):
        return given
    return {
        name: timedelta(seconds=value).total_seconds()
        if name in {"within", "schedule_after"} and value is not None
        else microseconds(value)
        for name, value in given.items()
    }


def create_automation(api: Any, body: Any) -> Reply:
    return 201, api.objects.add("automations", **automation(body))


def filter_automations(api: Any, body: Any) -> Reply:
    names = ((body.get("automations") or {}).get("name") or {}).get("any_")
    return page([each for each in api.objects.of("automations") if names is None or each["name"] in names], body)


def update_automation(api: Any, key: str, body: Any) -> Reply:
    if key not in api.objects.rows["automations"]:
        return 404, NOT_FOUND
    api.objects.rows["automations"][key].update(automation(body))
    return 204, None


def enable_automation(api: Any, key: str, body: Any) -> Reply:
    if set(body) != {"enabled"}:
        return 422, {"exception_message": "Extra inputs are not permitted"}
    api.objects.rows["automations"][key].update(body)
    return 204, None


def storage(api: Any, body: Any) -> Reply:
    return 200, {"default_result_storage_block_id": api.objects.rows["settings"].get("storage", {}).get("id")}


def set_storage(api: Any, body: Any) -> Reply:
    api.objects.rows["settings"]["storage"] = {"id": body["default_result_storage_block_id"]}
    return storage(api, body)


def clear_storage(api: Any, body: Any) -> Reply:
    api.objects.rows["settings"].clear()
    return 204, None


def listing(kind: str) -> Callable[..., Reply]:
    return lambda api, body: page(api.objects.of(kind), body)


LIMIT_DEFAULTS = {"active": True, "active_slots": 0, "slot_decay_per_second": 0.0}
VARIABLE = plain("variables", "name", {"tags": []})
LIMIT = plain("limits", "name", LIMIT_DEFAULTS)
TYPE_DEFAULTS = dict.fromkeys(("logo_url", "documentation_url", "description", "code_example")) | {
    "is_protected": False
}
BLOCK_TYPE = plain("block_types", "slug", TYPE_DEFAULTS)
DOCUMENT = plain("block_documents", "name", {})
AUTOMATION = plain("automations", "name", {})

ONE = "([^/]+)"
ROUTES: tuple[tuple[str, Callable[..., Reply]], ...] = (
    (r"POST /variables/", create_variable),
    (r"POST /variables/filter", filter_variables),
    (rf"GET /variables/name/{ONE}", VARIABLE[1]),
    (rf"PATCH /variables/name/{ONE}", VARIABLE[2]),
    (rf"DELETE /variables/name/{ONE}", VARIABLE[3]),
    (r"POST /v2/concurrency_limits/", LIMIT[0]),
    (r"POST /v2/concurrency_limits/filter", listing("limits")),
    (rf"GET /v2/concurrency_limits/{ONE}", LIMIT[1]),
    (rf"PATCH /v2/concurrency_limits/{ONE}", LIMIT[2]),
    (rf"DELETE /v2/concurrency_limits/{ONE}", LIMIT[3]),
    (r"POST /concurrency_limits/", upsert_tag_limit),
    (r"POST /concurrency_limits/filter", filter_tag_limits),
    (rf"GET /concurrency_limits/tag/{ONE}", read_tag_limit),
    (rf"DELETE /concurrency_limits/{ONE}", LIMIT[3]),
    (r"POST /work_queues/filter", lambda api, body: page(list(api.queues.values()), body)),
    (rf"POST /work_pools/{ONE}/queues", create_queue),
    (rf"GET /work_pools/{ONE}/queues/{ONE}", read_queue),
    (rf"PATCH /work_pools/{ONE}/queues/{ONE}", update_queue),
    (rf"DELETE /work_pools/{ONE}/queues/{ONE}", delete_queue),
    (r"POST /flows/", create_flow),
    (r"POST /flows/filter", lambda api, body: page(list(api.flows.values()), body)),
    (rf"GET /flows/name/{ONE}", read_flow),
    (rf"PATCH /flows/{ONE}", update_flow),
    (rf"DELETE /flows/{ONE}", delete_flow),
    (r"POST /block_types/", BLOCK_TYPE[0]),
    (r"POST /block_types/filter", listing("block_types")),
    (rf"GET /block_types/slug/{ONE}", BLOCK_TYPE[1]),
    (rf"GET /block_types/slug/{ONE}/block_documents/name/{ONE}", read_document),
    (rf"PATCH /block_types/{ONE}", BLOCK_TYPE[2]),
    (rf"DELETE /block_types/{ONE}", BLOCK_TYPE[3]),
    (r"POST /block_schemas/", create_schema),
    (r"POST /block_schemas/filter", filter_schemas),
    (r"POST /block_documents/", create_document),
    (r"POST /block_documents/filter", filter_documents),
    (rf"PATCH /block_documents/{ONE}", update_document),
    (rf"DELETE /block_documents/{ONE}", DOCUMENT[3]),
    (r"POST /deployments/", create_deployment),
    (r"POST /deployments/filter", filter_deployments),
    (rf"GET /deployments/{ONE}", read_deployment_by_id),
    (rf"PATCH /deployments/{ONE}", update_deployment),
    (rf"DELETE /deployments/{ONE}", delete_deployment),
    (rf"POST /deployments/{ONE}/schedules", create_schedules),
    (rf"PATCH /deployments/{ONE}/schedules/{ONE}", update_schedule),
    (rf"DELETE /deployments/{ONE}/schedules/{ONE}", delete_schedule),
    (r"POST /automations/", create_automation),
    (r"POST /automations/filter", filter_automations),
    (rf"PUT /automations/{ONE}", update_automation),
    (rf"PATCH /automations/{ONE}", enable_automation),
    (rf"DELETE /automations/{ONE}", AUTOMATION[3]),
    (r"GET /admin/storage", storage),
    (r"PUT /admin/storage", set_storage),
    (r"DELETE /admin/storage", clear_storage),
)
