#!/usr/bin/python
"""Read a summary of a Prefect API."""

from __future__ import annotations

DOCUMENTATION = r"""
module: info
short_description: Read a summary of a Prefect API
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Reads, in a few requests, whether the Prefect API is reachable and ready, and which work pools, workers,
    deployments and recent flow runs it has.
  - An unreachable API fails the task only with O(required). Wrong credentials always fail it.
extends_documentation_fragment:
  - selfhosted.prefect.api
attributes:
  check_mode:
    description: Only reads.
    support: full
  diff_mode:
    description: Only reads.
    support: none
options:
  required:
    description:
      - Whether to fail when the API does not answer.
    type: bool
    default: false
  hours:
    description:
      - How far back flow runs are counted.
    type: float
    default: 24.0
  resources:
    description:
      - The kinds of objects to return in full, in the form that M(selfhosted.prefect.resources) takes. Secrets are
        hidden.
    type: list
    elements: str
    choices: [automation, block, block_type, deployment, flow, global_concurrency_limit, tag_concurrency_limit,
    variable, work_pool, work_queue]
    default: []
"""

EXAMPLES = r"""
- name: Read a summary of the API
  selfhosted.prefect.info:
    api_url: http://127.0.0.1:4200/api
  register: prefect

- name: Check that every pool has a worker online
  ansible.builtin.assert:
    that:
      - prefect.reachable
      - prefect.work_pools | rejectattr('workers_online') | length == 0

- name: Fail unless Prefect answers, and count the flow runs of the last hour
  selfhosted.prefect.info:
    api_url: http://127.0.0.1:4200/api
    required: true
    hours: 1

- name: Read all variables and deployments
  selfhosted.prefect.info:
    api_url: http://127.0.0.1:4200/api
    resources: [variable, deployment]
  register: prefect
"""

RETURN = r"""
reachable:
  description: Whether the API answered.
  returned: success
  type: bool
  sample: true
error:
  description: Why the API did not answer.
  returned: when it is not reachable
  type: str
  sample: "GET http://127.0.0.1:4200/api/ready: no answer: [Errno 111] Connection refused"
api_url:
  description: Address of the API.
  returned: success
  type: str
  sample: http://127.0.0.1:4200/api
ready:
  description: Whether the API can reach its database.
  returned: success
  type: bool
  sample: true
ui_url:
  description: Address of the UI, as far as the API knows it. Null if the server does not serve a UI.
  returned: when it is reachable
  type: str
  sample: http://127.0.0.1:4200
version:
  description: Version of Prefect on the server.
  returned: when it is reachable
  type: str
  sample: 3.8.8
database:
  description:
    - V(sqlite) or V(postgresql) if the server is configured with E(PREFECT_SERVER_DATABASE_DRIVER). Otherwise null,
      because the API hides the whole connection URL.
  returned: when it is reachable
  type: str
  sample: postgresql
work_pools:
  description: The work pools, by name.
  returned: when it is reachable
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    type:
      description: What runs its flow runs.
      type: str
    status:
      description: C(READY), C(NOT_READY) (no worker is online) or C(PAUSED).
      type: str
    is_paused:
      description: Whether it is paused.
      type: bool
    concurrency_limit:
      description: How many of its flow runs may run at the same time. Null means any number.
      type: int
    workers:
      description: Its workers, by name, each with C(name), C(status) and C(last_heartbeat_time).
      type: list
      elements: dict
    workers_online:
      description: How many of its workers are online.
      type: int
deployments:
  description: Number of deployments (C(count)) and their C(names), as C(flow/deployment).
  returned: when it is reachable
  type: dict
  sample:
    count: 1
    names: [hello/default]
flow_runs:
  description:
    - Number of flow runs that were due in the last O(hours), by state type (C(states)), and number of runs that are
      late now (C(late)), regardless of when they were due.
  returned: when it is reachable
  type: dict
  sample:
    hours: 24.0
    late: 0
    states:
      COMPLETED: 12
resources:
  description: The objects of each kind of O(resources), by the kind's name in M(selfhosted.prefect.resources).
  returned: when it is reachable
  type: dict
  sample:
    prefect_variables:
      - name: shop
        value: {retries: 3}
        tags: []
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..module_utils.api.module import Api, ApiError, mask_of, quoted, run_module
from ..module_utils.objects.engine import Server
from ..module_utils.objects.table import KINDS, listed


def work(api: Api, params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Return the module's result. Raises ApiError if the API is required but unreachable, or rejects the login."""
    result: dict[str, Any] = {"changed": False, "api_url": api.url, "reachable": True, "ready": False}
    try:
        result["ready"] = ready(api)
        # On a server that is not ready, every further request would wait for the database.
        return {**result, **(summary(api, params) if result["ready"] else {})}
    except ApiError as error:
        if params["required"] or error.status in {401, 403}:
            raise
        return {**result, "reachable": False, "ready": False, "error": str(error)}


def ready(api: Api) -> bool:
    """Return whether the API can reach its database. Raises ApiError if the API does not answer."""
    try:
        api.call("GET", "/ready", patience=0)
    except ApiError as error:
        # The server's own 503 is JSON; a proxy's, for an unreachable server, is an HTML page.
        if error.status == 503 and isinstance(error.body, dict):
            return False
        raise
    return True


def summary(api: Api, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a server that is ready. Raises ApiError."""
    settings = api.get("/admin/settings")
    return {
        "version": api.get("/admin/version"),
        "ui_url": ui_url(api.url, settings),
        "database": database(settings),
        "work_pools": [work_pool(api, pool) for pool in sorted(api.pages("/work_pools/filter"), key=_name)],
        "deployments": deployments(api),
        "flow_runs": flow_runs(api, hours=params["hours"]),
        "resources": listed(Server(api, KINDS, bulk=True, mask=mask_of(params)), params["resources"]),
    }


def ui_url(api_url: str, settings: Mapping[str, Any]) -> str | None:
    """Return the address of the UI: the one that the server uses in links, or else derived from the API's."""
    ui = settings["server"]["ui"]
    if not ui["enabled"]:
        return None
    base = (ui.get("serve_base") or "/").rstrip("/")
    known: str = settings.get("ui_url") or urlunsplit((*urlsplit(api_url)[:2], base, "", ""))
    return known


def database(settings: Mapping[str, Any]) -> str | None:
    """Return the kind of the database, if the server reports it."""
    driver = settings["server"]["database"].get("driver")
    return str(driver).partition("+")[0] if driver else None


def work_pool(api: Api, pool: Mapping[str, Any]) -> dict[str, Any]:
    rows = sorted(api.pages(f"/work_pools/{quoted(pool['name'])}/workers/filter"), key=_name)
    workers = [{field: row[field] for field in ("name", "status", "last_heartbeat_time")} for row in rows]
    return {
        **{field: pool.get(field) for field in ("name", "type", "status", "is_paused", "concurrency_limit")},
        "workers": workers,
        "workers_online": sum(worker["status"] == "ONLINE" for worker in workers),
    }


def deployments(api: Api) -> dict[str, Any]:
    rows = list(api.pages("/deployments/filter"))
    flows = {row["id"]: row["name"] for row in api.pages("/flows/filter")} if rows else {}
    names = sorted(f"{flows.get(row['flow_id'])}/{row['name']}" for row in rows)
    return {"count": len(names), "names": names}


def flow_runs(api: Api, *, hours: float) -> dict[str, Any]:
    now = datetime.now(timezone.utc)
    span = timedelta(hours=hours)
    body = {
        "history_start": (now - span).isoformat(),
        "history_end": now.isoformat(),
        "history_interval_seconds": span.total_seconds(),
    }
    states: Counter[str] = Counter()
    for interval in api.post("/flow_runs/history", body):
        for state in interval["states"]:
            states[state["state_type"]] += state["count_runs"]
    late = api.post("/flow_runs/count", {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}})
    return {"hours": hours, "states": dict(sorted(states.items())), "late": late}


def _name(row: Mapping[str, Any]) -> str:
    return str(row["name"])


def main() -> None:
    run_module(
        work,
        {
            "required": {"type": "bool", "default": False},
            "hours": {"type": "float", "default": 24.0},
            "resources": {"type": "list", "elements": "str", "choices": sorted(KINDS), "default": []},
        },
    )


if __name__ == "__main__":
    main()
