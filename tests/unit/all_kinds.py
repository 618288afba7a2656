"""An object of each kind, applied to the API in memory in one call."""

from __future__ import annotations

import copy
import json
from typing import Any

from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.engine import Server
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.table import KINDS, listed
from ansible_collections.selfhosted.prefect.plugins.modules import resources
from fake_api import FakeApi, outcome

Wanted = dict[str, list[dict[str, Any]]]

ALL: Wanted = {
    "prefect_work_pools": [{"name": "main", "type": "process", "concurrency_limit": 3}],
    "prefect_work_queues": [
        {"work_pool": "main", "name": "slow", "priority": 3},
        {"work_pool": "main", "name": "urgent", "priority": 1},
    ],
    "prefect_variables": [{"name": "shop", "value": {"a": 1}, "tags": ["x"]}],
    "prefect_block_types": [
        {"slug": "account", "schema": {"properties": {"user": {}, "password": {}}, "secret_fields": ["password"]}}
    ],
    "prefect_blocks": [
        {"block_type": "account", "name": "shop", "data": {"user": {"$ref": "secret/word"}, "password": "hush-hush"}},
        {"block_type": "secret", "name": "word", "data": {"value": "hush-quiet"}},
    ],
    "prefect_global_concurrency_limits": [{"name": "database", "limit": 5}],
    "prefect_tag_concurrency_limits": [{"tag": "db", "concurrency_limit": 2}],
    "prefect_flows": [{"name": "stock", "tags": ["shop"]}],
    "prefect_deployments": [
        {
            "flow": "stock",
            "name": "daily",
            "work_pool": "main",
            "work_queue": "urgent",
            "global_concurrency_limit": "database",
            "schedules": [{"cron": "0 6 * * *"}, {"interval": 60, "max_scheduled_runs": 3, "slug": "often"}],
        },
        {"flow": "report", "name": "daily", "work_pool": "main", "concurrency_limit": 1},
    ],
    "prefect_automations": [
        {
            "name": "Tell",
            "trigger": {"expect": ["x"], "match": {"prefect.resource.id": "prefect.flow.report"}},
            "actions": [
                {"type": "send-notification", "block": "secret/word", "body": "x"},
                {"type": "run-deployment", "deployment": "stock/daily"},
                {"type": "pause-automation", "automation": "Other"},
            ],
        },
        {"name": "Other", "trigger": {"expect": ["y"]}, "actions": [{"type": "do-nothing"}]},
    ],
}
NOTHING: Wanted = {name: [] for name in ALL}


def act(fake: FakeApi, wanted: Wanted, *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    result: dict[str, Any] = outcome(
        resources.main, check_mode=check_mode, **{"api_url": fake.url, **copy.deepcopy(wanted), **options}
    )
    return result


def everything(fake: FakeApi) -> dict[str, Any]:
    """Return all that the server has, in our words and without what differs from one server to the next."""
    with Api(fake.url) as api:
        found = listed(Server(api, KINDS, bulk=True), KINDS, secrets=True)
    text = json.dumps(found, sort_keys=True)
    for row in (*fake.flows.values(), *(each for rows in fake.objects.rows.values() for each in rows.values())):
        text = text.replace(row.get("id", "-"), "ID")
    cleaned: dict[str, Any] = json.loads(text)
    for deployment in cleaned["prefect_deployments"]:
        for schedule in deployment["schedules"]:
            schedule.pop("anchor_date", None)
    return cleaned


def without(kind: str, index: int) -> Wanted:
    return {**ALL, kind: [each for at, each in enumerate(ALL[kind]) if at != index]}
