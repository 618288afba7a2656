"""Recreating what cannot be changed, killed between any two writes: the next run ends as an undisturbed one does."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects import recreations
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.recreations import PREFIX
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.table import KINDS
from ansible_collections.selfhosted.prefect.plugins.modules import resources, work_pool
from fake_api import FakeApi, Fault, outcome

Wanted = dict[str, Any]

BEFORE: Wanted = {
    "prefect_work_pools": [{"name": "main", "type": "process", "description": "a person's", "concurrency_limit": 3}],
    "prefect_work_queues": [{"work_pool": "main", "name": "urgent", "priority": 1}],
    "prefect_deployments": [
        {"flow": "stock", "name": "daily", "work_pool": "main", "work_queue": "urgent", "labels": {"team": "one"}}
    ],
    "prefect_automations": [
        {
            "name": "Pause",
            "trigger": {"expect": ["x"]},
            "actions": [
                {"type": "pause-work-pool", "work_pool": "main"},
                {"type": "pause-work-queue", "work_queue": "main/urgent"},
            ],
        }
    ],
}
AFTER: Wanted = {**BEFORE, "prefect_work_pools": [{"name": "main", "type": "docker"}]}
"""The pool's description and limit are left alone."""

LABELLED: Wanted = {
    **BEFORE,
    "prefect_deployments": [{"flow": "stock", "name": "daily", "labels": {"team": "two"}}],
}
"""A deployment's labels cannot be changed either; its place in the pool is left alone."""

NOTHING: Wanted = {name: [] for name in (*BEFORE, "prefect_flows")}


def act(fake: FakeApi, wanted: Wanted, **options: Any) -> dict[str, Any]:
    given = {"api_url": fake.url, "recreate": True, **copy.deepcopy(wanted), **options}
    result: dict[str, Any] = outcome(resources.main, **given)
    return result


def recreate_pool(fake: FakeApi) -> dict[str, Any]:
    result: dict[str, Any] = outcome(work_pool.main, api_url=fake.url, name="main", type="docker", recreate=True)
    return result


def populated(fake: FakeApi) -> None:
    """Have what is described, and beside it a queue and deployments of a person's."""
    act(fake, BEFORE)
    with Api(fake.url) as api:
        api.post("/work_pools/main/queues", {"name": "aside", "priority": 1, "concurrency_limit": 2})
    for number, queue in enumerate(("aside", "default")):
        fake.add_deployment("foreign", f"d{number}", pool="main")["work_queue_name"] = queue
    fake.add_deployment("foreign", "elsewhere", pool=None)


def state(fake: FakeApi) -> Any:
    """Return what the server has, without what differs from one run to the next."""
    pools = {
        name: {key: row[key] for key in ("type", "description", "concurrency_limit")}
        for name, row in fake.pools.items()
    }
    queues = {
        "/".join(place): {key: row[key] for key in ("priority", "concurrency_limit")}
        for place, row in fake.queues.items()
    }
    deployments = {
        row["name"]: {key: row[key] for key in ("work_pool_name", "work_queue_name", "labels")}
        for row in fake.deployments.values()
    }
    names = {row["id"]: name for name, row in fake.pools.items()}
    names |= {row["id"]: "/".join(place) for place, row in fake.queues.items()}
    actions = [
        names.get(action.get("work_pool_id") or action["work_queue_id"])
        for automation in fake.objects.of("automations")
        for action in automation["actions"]
    ]
    flows = {row["id"]: row["name"] for row in fake.flows.values()}
    for row in deployments.values():
        row["labels"] = {name: flows.get(value, value) for name, value in row["labels"].items()}
    records = [row["name"] for row in fake.objects.of("variables") if row["name"].startswith(PREFIX)]
    return copy.deepcopy(
        {"pools": pools, "queues": queues, "deployments": deployments, "actions": actions, "records": records}
    )


def killed(fake: FakeApi, run: Callable[[], Any], point: int) -> bool:
    """Run something that dies before its `point`th write; return whether it got there."""
    writes = len(fake.writes) + point

    def kill(request: str) -> None:
        if len(fake.writes) >= writes:
            fake.faults.append(Fault(status=500))

    fake.before = kill
    run()
    fake.before = lambda request: None
    fake.faults.clear()
    return len(fake.writes) >= writes


@pytest.mark.parametrize("wanted", [AFTER, LABELLED], ids=["pool", "deployment"])
def test_killed_between_any_two_writes(wanted: Wanted) -> None:
    with FakeApi() as undisturbed:
        populated(undisturbed)
        assert act(undisturbed, wanted)["summary"]["recreate"] == 1
        expected = state(undisturbed)
    assert (expected["records"], expected["deployments"]["d0"]["work_queue_name"]) == ([], "aside")
    for point in range(1, 50):
        with FakeApi() as fake:
            populated(fake)
            if not killed(fake, lambda: act(fake, wanted), point):
                break
            assert "msg" not in (first := act(fake, wanted)), (point, first)
            second = act(fake, wanted)
            assert (state(fake), second["plan"]) == (expected, []), point
            act(fake, NOTHING, prune=True)
            # What the inventory had made before it is still its own, and what a person made is not.
            assert ("main", "urgent") not in fake.queues, point
            assert ("main", "aside") in fake.queues, point
    assert 5 < point < 49


def test_the_module_of_a_pool_finishes_what_it_began() -> None:
    with FakeApi() as undisturbed:
        populated(undisturbed)
        assert recreate_pool(undisturbed)["changed"]
        expected = state(undisturbed)["deployments"]
    for point in range(1, 50):
        with FakeApi() as fake:
            populated(fake)
            if not killed(fake, lambda: recreate_pool(fake), point):
                break
            assert "failed" not in recreate_pool(fake), point
            assert recreate_pool(fake)["changed"] is False, point
            assert (state(fake)["deployments"], state(fake)["records"]) == (expected, []), point
    assert 5 < point < 49


def interrupted(fake: FakeApi) -> None:
    """Have a pool that was deleted, and not recreated."""
    populated(fake)
    killed(fake, lambda: act(fake, AFTER), 4)
    assert "main" not in fake.pools


def test_check_mode_predicts_what_is_left(fake: FakeApi) -> None:
    interrupted(fake)
    before = state(fake)
    assert act(fake, AFTER, _ansible_check_mode=True)["plan"][0] == "± work pool main (type: process -> docker)"
    assert state(fake) == before


def test_an_interrupted_recreation_that_nothing_describes_is_told(fake: FakeApi) -> None:
    interrupted(fake)
    result = act(fake, {"prefect_variables": []}, prune=True)
    assert "work pool main: a run that was to recreate it was interrupted" in result["kept"][0]
    act(fake, {"prefect_work_pools": [{"name": "main", "state": "absent"}]})
    assert state(fake)["records"] == []


def test_a_record_takes_as_many_variables_as_it_needs(fake: FakeApi) -> None:
    row = {"id": "1", "noise": [os.urandom(16).hex() for _ in range(500)]}
    with Api(fake.url) as api:
        recreations.write(api, "work_pool", "main", row, {})
        rows = fake.objects.of("variables")
        assert len(rows) > 2
        assert [each.row for each in recreations.read(rows, KINDS)[0]] == [row]
        assert recreations.read(rows[1:], KINDS) == ([], [])
        for each in rows:
            each["created"] = "2020-01-01T00:00:00Z"
        assert recreations.read(rows[1:], KINDS) == ([], [each["name"] for each in rows[1:]])
