"""For every field of every kind: values that an object is created with, changed to and cleared by.

`Steps` runs through them on a server, the one in memory or a real one. Check mode has to predict exactly what is done,
repeating it has to change nothing, and what is read back has to be what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.engine import Server, ensure
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.table import KINDS

TEMPLATE = {"job_configuration": {"env": "{{ env }}"}, "variables": {"properties": {"env": {"type": "object"}}}}
SCHEMA = {
    "title": "Account",
    "type": "object",
    "properties": {"user": {"type": "string"}, "password": {"type": "string", "format": "password", "writeOnly": True}},
    "required": ["user"],
    "secret_fields": ["password"],
}
OTHER_SCHEMA = {**SCHEMA, "properties": {"user": {"type": "string"}}, "secret_fields": []}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}
EVENT = {"expect": ["prefect.flow-run.Failed"], "match": {"prefect.resource.id": "prefect.flow-run.*"}}
NOTHING = {"type": "do-nothing"}

NEEDED: list[tuple[str, str, dict[str, Any]]] = [
    ("work_pool", "pool", {"type": "process"}),
    ("work_pool", "pool-2", {"type": "process"}),
    ("work_queue", "pool/queue", {}),
    ("flow", "flow", {}),
    ("block_type", "account", {"schema": SCHEMA}),
    ("block", "secret/other", {"data": {"value": "hush"}}),
    ("global_concurrency_limit", "shared", {"limit": 5}),
    ("deployment", "flow/other", {"work_pool": "pool"}),
]
"""What the objects of the matrix refer to."""

BASE: dict[str, tuple[str, dict[str, Any]]] = {
    "work_pool": ("matrix", {}),
    "work_queue": ("pool/matrix", {}),
    "variable": ("matrix", {"value": 1}),
    "block_type": ("matrix", {}),
    "block": ("account/matrix", {"data": {"user": "ada"}}),
    "global_concurrency_limit": ("matrix", {"limit": 1}),
    "tag_concurrency_limit": ("matrix", {"concurrency_limit": 1}),
    "flow": ("matrix", {}),
    "deployment": ("flow/matrix", {"parameter_openapi_schema": PARAMETERS}),
    "automation": ("matrix", {"trigger": EVENT, "actions": [NOTHING]}),
}
"""Key and least fields of an object of each kind."""

TEXTS = ["one", "two", ""]
TAGS: list[Any] = [["b", "a"], ["c"], []]
BOOLS = [True, False]

VALUES: dict[str, dict[str, list[Any]]] = {
    "work_pool": {
        "type": ["docker"],
        "description": TEXTS,
        "concurrency_limit": [3, 0, -1],
        "is_paused": BOOLS,
        "base_job_template": [TEMPLATE, {**TEMPLATE, "job_configuration": {"env": {}}}],
    },
    "work_queue": {
        "description": TEXTS,
        "concurrency_limit": [3, 0, -1],
        "is_paused": BOOLS,
        "priority": [1, 2, 7],
    },
    "variable": {
        "value": ["text", 1, 1.5, True, False, {"a": [1, {"b": None}]}, [], "multi\nline"],
        "tags": TAGS,
    },
    "block_type": {
        "name": ["Matrix Type"],
        "description": TEXTS,
        "logo_url": ["https://example.org/a.png", "https://example.org/b.png", ""],
        "documentation_url": ["https://example.org/a", "https://example.org/b", ""],
        "code_example": TEXTS,
        "schema": [SCHEMA, OTHER_SCHEMA, SCHEMA],
        "capabilities": [["b", "a"], ["c"], []],
    },
    "block": {
        "data": [
            {"user": "ada", "password": "one"},
            {"password": "two\nlines"},
            {"user": "grace"},
            {"user": {"$ref": "secret/other"}},
            {"password": "three"},
            {"user": "plain"},
        ],
    },
    "global_concurrency_limit": {
        "limit": [3, 0, 4],
        "active": [False, True],
        "slot_decay_per_second": [0.5, 1.0, 0.0],
    },
    "tag_concurrency_limit": {"concurrency_limit": [3, 0, 4]},
    "flow": {"tags": TAGS, "labels": [{"team": "shop"}]},
    "deployment": {
        "description": TEXTS,
        "version": TEXTS,
        "tags": TAGS,
        "labels": [{"team": "shop"}],
        "entrypoint": TEXTS,
        "path": TEXTS,
        "pull_steps": [[{"prefect.deployments.steps.set_working_directory": {"directory": "/a"}}], [{"x.y": {}}], []],
        "parameters": [
            {"a": 1},
            {"a": 2, "b": "x"},
            {"c": {"__prefect_kind": "jinja", "template": "{{ 1 }}"}},
            {},
        ],
        "parameter_openapi_schema": [{"type": "object", "properties": {"c": {"type": "string"}}}, PARAMETERS],
        "enforce_parameter_schema": [False, True],
        "environment": ["etl", "legacy", ""],
        "job_variables": [{"env": {"A": "b"}}, {"env": {}}, {"command": "prefect-environment etl"}, {}],
        "work_pool": ["pool", "pool-2"],
        "work_queue": [],
        "concurrency_limit": [2, 3, -1],
        "global_concurrency_limit": ["shared", ""],
        "concurrency_options": [
            {"collision_strategy": "CANCEL_NEW"},
            {"collision_strategy": "ENQUEUE", "grace_period_seconds": 70},
            {},
        ],
        "paused": BOOLS,
        "schedules": [
            [{"cron": "0 6 * * *"}],
            [{"cron": "0 6 * * *", "timezone": "Europe/Berlin", "active": False}],
            [{"cron": "0 6 * * *", "timezone": "Europe/Berlin", "day_or": False, "active": True}],
            [{"interval": 33.3333333333}],
            [{"interval": 900, "slug": "often", "parameters": {"a": 1}}],
            [{"interval": 900, "slug": "often", "anchor_date": "2026-01-01T00:00:00+01:00", "parameters": {}}],
            [{"slug": "rule", "rrule": "FREQ=DAILY"}, {"interval": 60, "slug": "often", "max_scheduled_runs": 5}],
            [{"interval": 60, "slug": "often", "max_scheduled_runs": -1}, {"slug": "rule", "rrule": "FREQ=WEEKLY"}],
            [{"rrule": "FREQ=WEEKLY"}, {"cron": "@daily"}, {"cron": "0 0 * * 1-5"}],
            [],
        ],
    },
    "automation": {
        "description": TEXTS,
        "enabled": BOOLS,
        "tags": TAGS,
        "trigger": [
            {**EVENT, "match_related": {"prefect.resource.id": "prefect.flow.flow"}},
            {"posture": "Proactive", "expect": ["b", "a"], "within": "PT1M", "threshold": 2, "for_each": ["x"]},
            {
                "type": "compound",
                "require": "any",
                "within": 33.3333333333,
                "triggers": [EVENT, {"type": "sequence", "triggers": [{"expect": "a", "after": ["b"]}]}],
            },
        ],
        "actions": [
            [
                {
                    "type": "run-deployment",
                    "deployment": "flow/other",
                    "parameters": {"a": 1},
                    "schedule_after": 0.6666666666,
                }
            ],
            [
                {"type": "pause-deployment", "deployment": "flow/other"},
                {"type": "resume-deployment", "source": "inferred"},
                {"type": "cancel-flow-run"},
                {"type": "suspend-flow-run"},
                {"type": "resume-flow-run"},
                {"type": "delete-flow-run"},
                {"type": "change-flow-run-state", "state": "CRASHED", "message": "gone"},
            ],
            [
                {"type": "send-notification", "block": "secret/other", "body": "{{ flow_run.name }}"},
                {"type": "call-webhook", "block": "secret/other", "payload": "x"},
                {"type": "pause-work-pool", "work_pool": "pool"},
                {"type": "resume-work-pool", "source": "inferred"},
                {"type": "pause-work-queue", "work_queue": "pool/queue"},
                {"type": "resume-work-queue", "work_queue": "pool/queue"},
                {"type": "pause-automation", "source": "inferred"},
                {"type": "resume-automation", "source": "inferred"},
            ],
            [],
        ],
        "actions_on_trigger": [[NOTHING], []],
        "actions_on_resolve": [[NOTHING, {"type": "cancel-flow-run"}], []],
    },
}

NEWER = {
    ("deployment", "environment", 2),
    ("deployment", "job_variables", 3),
    ("deployment", "concurrency_options", 1),
    ("deployment", "concurrency_options", 2),
    ("automation", "actions", 1),
}
"""Kind, field and step of what Prefect 3.5 does not know: it cannot clear, or has no such field or action."""

CASES = [(kind, name) for kind, fields in VALUES.items() for name in fields]


def prepare(api: Api) -> None:
    """Make what the objects of the matrix refer to."""
    for kind, key, wanted in NEEDED:
        ensure(Server(api, KINDS), KINDS[kind], key=key, wanted=wanted, state="present", check_mode=False)


def clear(api: Api) -> None:
    """Remove what `prepare` created."""
    for kind, key, _ in reversed(NEEDED):
        ensure(Server(api, KINDS), KINDS[kind], key=key, wanted={}, state="absent", check_mode=False)


def values(kind: str, name: str) -> Iterator[dict[str, Any]]:
    """Yield the fields to go through for one field."""
    if (kind, name) == ("deployment", "work_queue"):
        yield {"work_pool": "pool", "work_queue": "queue"}
        yield {"work_queue": "default"}
        yield {"work_pool": "pool-2"}
    for value in VALUES[kind][name]:
        if name == "capabilities":
            yield {name: value, "schema": SCHEMA}
        elif name == "labels" and kind == "flow":
            yield {name: value, "tags": []}
        else:
            yield {name: value}


def go_through(api: Api, kind: str, name: str, *, newer: bool = True) -> None:
    """Create, change and clear one field of a kind, each dry, for real and again; then take the object away.

    `newer` is whether the server knows what is `NEWER`.
    """
    about = KINDS[kind]
    key, least = BASE[kind]

    def act(wanted: dict[str, Any], *, check_mode: bool = False, state: str = "present") -> dict[str, Any]:
        return ensure(Server(api, KINDS), about, key=key, wanted=wanted, state=state, check_mode=check_mode)

    for step, fields in enumerate(values(kind, name)):
        if not newer and (kind, name, step) in NEWER:
            continue
        wanted = {**least, **fields} if step == 0 else fields
        dry = act(wanted, check_mode=True)
        real = act(wanted)
        again = act(wanted, check_mode=True)
        where = f"{kind}.{name}, step {step}: {fields}"
        assert dry["changed"] is real["changed"] is True, where
        assert dry["diff"] == real["diff"], where
        assert again["changed"] is False, f"{where}: {again['diff']}"
        server = Server(api, KINDS)
        row = server.find(kind, key)
        assert row is not None
        read_back = about.shape(row, server)
        asked, _ = about.target(about.canonical(wanted, server), about.shape(row, server), keep=False)
        for field in (field for field in asked if field != "schedules"):
            assert read_back[field] == asked[field], where
        for field, value in dry["object"].items():
            # The server adds labels of its own, and an anchor or a start to a schedule.
            own = field in about.fields and field not in {"labels", "schedules"}
            assert not own or real["object"][field] == value, where
    gone = act({}, state="absent")
    assert gone["changed"] is True
    assert act({}, state="absent")["changed"] is False
