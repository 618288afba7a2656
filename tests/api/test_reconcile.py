"""Everything in one call on a real server: repeated, changed by hand, killed, and by two controllers at once."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api, Failure
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.engine import Server
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.export import export
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.reconcile import reconcile
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.table import KINDS, listed
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.wishes import Report, Wish
from conftest import AUTH, PrefectServer

COLLECTIONS = Path(__file__).resolve().parents[2] / ".collections"

ALL: dict[str, list[dict[str, Any]]] = {
    "prefect_work_pools": [{"name": "all", "type": "process", "concurrency_limit": 3}],
    "prefect_work_queues": [{"work_pool": "all", "name": "urgent", "priority": 1}],
    "prefect_variables": [{"name": "all_shop", "value": {"a": 1}}, {"name": "all_other", "value": "x"}],
    "prefect_blocks": [{"block_type": "secret", "name": "all-word", "data": {"value": "hush\nquiet"}}],
    "prefect_global_concurrency_limits": [{"name": "all-database", "limit": 5}],
    "prefect_tag_concurrency_limits": [{"tag": "all-db", "concurrency_limit": 2}],
    "prefect_deployments": [
        {
            "flow": "all-stock",
            "name": "daily",
            "work_pool": "all",
            "work_queue": "urgent",
            "global_concurrency_limit": "all-database",
            "schedules": [{"cron": "0 6 * * *", "timezone": "Europe/Berlin"}, {"interval": 3600, "slug": "often"}],
        },
        {"flow": "all-report", "name": "daily", "work_pool": "all", "concurrency_limit": 1},
    ],
    "prefect_automations": [
        {
            "name": "all tell",
            "trigger": {"expect": ["x"], "match": {"prefect.resource.id": "prefect.flow.all-report"}},
            "actions": [
                {"type": "send-notification", "block": "secret/all-word", "body": "x"},
                {"type": "run-deployment", "deployment": "all-stock/daily"},
            ],
        },
    ],
}
NOTHING: dict[str, list[dict[str, Any]]] = {name: [] for name in ALL}

DRIVER = """
import json, os, sys
from ansible_collections.selfhosted.prefect.plugins.module_utils.api import client
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.reconcile import reconcile
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.wishes import Wish

url, auth, point, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
real, writes = client.Api._exchange, 0

def exchange(self, method, path, body):
    global writes
    writes += method != "GET" and not path.endswith(("filter", "count"))
    if writes == point and point % 2:
        os._exit(9)
    answer = real(self, method, path, body)
    if writes == point:
        os._exit(9)
    return answer

client.Api._exchange = exchange
reconcile(client.Api(url, auth=auth), wanted, Wish(prune=True))
"""


def act(api: Api, wanted: dict[str, Any], **wish: Any) -> Report:
    report, server = reconcile(api, copy.deepcopy(wanted), Wish(**wish))
    server.close()
    return report


def everything(api: Api) -> str:
    """Return all that these tests make, without what differs from one server to the next."""
    found = listed(Server(api, KINDS, bulk=True), (name for name in KINDS if name != "block_type"), secrets=True)
    kept = {name: [row for row in rows if '"all' in json.dumps(row)] for name, rows in found.items()}
    for deployment in kept["prefect_deployments"]:
        for schedule in deployment["schedules"]:
            schedule.pop("anchor_date", None)
    return json.dumps(kept, sort_keys=True)


def test_apply_repeat_drift_and_prune(server: PrefectServer) -> None:
    with server.api() as api:
        dry = act(api, ALL, check_mode=True)
        real = act(api, ALL)
        assert [todo.label for todo in dry.plans] == [todo.label for todo in real.plans]
        assert [todo.diff for todo in dry.plans] == [todo.diff for todo in real.plans]
        assert not act(api, ALL).changed
        found = listed(Server(api, KINDS, bulk=True), KINDS, secrets=True)
        assert act(api, found, check_mode=True).plans == []

        row = api.get("/deployments/name/all-stock/daily")
        often = next(each for each in row["schedules"] if each["slug"] == "often")
        path = f"/deployments/{row['id']}/schedules"
        cron = next(each for each in row["schedules"] if "cron" in each["schedule"])
        changed = {"schedule": {"cron": "0 9 * * *"}}
        api.call("PATCH", f"{path}/{cron['id']}", changed)
        drift = act(api, ALL, check_mode=True)
        assert [todo.label for todo in drift.plans] == ["deployment all-stock/daily"]
        act(api, ALL)
        again = {each["id"]: each["schedule"] for each in api.get(path)}
        assert again[often["id"]] == often["schedule"]
        assert again[cron["id"]]["cron"] == "0 6 * * *"
        assert not act(api, ALL).changed

        act(api, NOTHING, prune=True)
        assert not act(api, NOTHING, prune=True).changed
        assert not any(json.loads(everything(api)).values())
        assert api.post("/variables/filter", {"variables": {"name": {"like_": "ansible_owner_ansible_"}}}) == []


def test_export_changes_nothing_here_and_makes_all_of_it_elsewhere(server: PrefectServer) -> None:
    def exported() -> dict[str, list[dict[str, Any]]]:
        return export(Server(api, KINDS, bulk=True), KINDS, secrets="clear").lists

    with server.api() as api:
        assert "prefect_block_types" not in exported()
        act(api, ALL)
        found = exported()
        again = act(api, found)
        assert (again.plans, again.unchanged) == ([], sum(map(len, found.values())))
        act(api, NOTHING, prune=True)
        assert len(act(api, found).plans) > len(ALL)
        assert exported() == found
        act(api, NOTHING, prune=True)


@pytest.mark.parametrize("point", range(1, 20, 2))
def test_killed(server: PrefectServer, point: int) -> None:
    with server.api() as api:
        act(api, ALL)
        expected = everything(api)
        act(api, NOTHING, prune=True)
        command = [sys.executable, "-c", DRIVER, server.url, AUTH, str(point + point // 2 % 2), json.dumps(ALL)]
        killed = subprocess.run(command, env={"PYTHONPATH": str(COLLECTIONS)}, capture_output=True, check=False)
        assert killed.returncode in {0, 9}, killed.stderr.decode()
        act(api, ALL)
        assert everything(api) == expected
        assert not act(api, ALL, prune=True).changed
        act(api, NOTHING, prune=True)
        assert not any(json.loads(everything(api)).values())


def test_two_controllers(server: PrefectServer) -> None:
    failures: list[Failure] = []

    def run() -> None:
        try:
            with server.api() as api:
                act(api, ALL)
        except Failure as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with server.api() as api:
        assert not act(api, ALL).changed
        assert len(api.post("/automations/filter", {"automations": {"name": {"any_": ["all tell"]}}})) == 1
        act(api, NOTHING, prune=True)
        assert not any(json.loads(everything(api)).values())


def test_a_deployment_has_one_owner(server: PrefectServer) -> None:
    data = {"owner": "definitions", "adopt": "true", "prune": True}
    other = {"prefect_deployments": [{**each, "tags": ["x"]} for each in ALL["prefect_deployments"]]}
    with server.api() as api:
        act(api, ALL)
        assert act(api, ALL, **data).adopted > 0
        assert not act(api, ALL).changed
        with pytest.raises(Failure, match="the owner definitions has made it") as caught:
            act(api, other)
        assert len(caught.value.details["errors"]) == len(other["prefect_deployments"])
        act(api, ALL, adopt="true")
        assert not act(api, ALL).changed
        act(api, NOTHING, prune=True)
        assert not act(api, NOTHING, **data).changed
        assert not any(json.loads(everything(api)).values())


def test_what_a_server_refuses_is_said_before_the_first_write(server: PrefectServer) -> None:
    wanted = {
        "prefect_variables": [{"name": "all_never", "value": 1}],
        "prefect_deployments": [
            {"flow": "f", "name": "a", "schedules": [{"cron": "61 * * * *"}]},
            {"flow": "f", "name": "b", "schedules": [{"interval": 5, "timezone": "Europe/Berln"}]},
            {"flow": "f", "name": "c", "schedules": [{"rrule": "FREQ=OFTEN"}]},
            {"flow": "f", "name": "d", "schedules": [{"cron": "0 6 * * *", "timezone": "US/Eastern"}]},
        ],
    }
    with server.api() as api:
        with pytest.raises(Failure) as caught:
            act(api, wanted)
        assert len(caught.value.details["errors"]) == 3
        assert "Europe/Berlin?" in str(caught.value)
        assert api.find("/variables/name/all_never") is None
