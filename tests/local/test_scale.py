"""Many objects in one call and many tasks in one flow.

On the API in memory: how many requests it takes, and that no listing misleads it.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.reconcile import reconcile
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.wishes import Wish
from fake_api import FakeApi
from prefect_definitions.schema import Definitions, rows_of

Wanted = dict[str, list[dict[str, Any]]]


def test_two_thousand_objects(fake: FakeApi) -> None:
    """Requests are counted, not seconds."""
    many: Wanted = {
        "prefect_work_pools": [{"name": f"p{n}"} for n in range(20)],
        "prefect_variables": [{"name": f"v{n}", "value": n} for n in range(550)],
        # More than a page of what comes before `tag:` in the server's own order.
        "prefect_global_concurrency_limits": [{"name": f"l{n}", "limit": n + 1} for n in range(250)],
        "prefect_tag_concurrency_limits": [{"tag": f"t{n}", "concurrency_limit": n} for n in range(100)],
        "prefect_flows": [{"name": f"f{n}"} for n in range(80)],
        "prefect_deployments": [
            {"flow": f"f{n % 80}", "name": f"d{n}", "work_pool": f"p{n % 20}", "schedules": [{"interval": 60 + n % 9}]}
            for n in range(1000)
        ],
    }
    with Api(fake.url) as api:
        first, server = reconcile(api, many, Wish())
        server.close()
        assert first.requests <= 2000 * 1.05
        unchanged, server = reconcile(api, many, Wish(prune=True))
        server.close()
        assert (unchanged.changed, unchanged.requests < 60) == (False, True)
        many["prefect_variables"][7]["value"] = "x"
        one, server = reconcile(api, many, Wish(prune=True))
        server.close()
        assert (len(one.plans), one.requests < 60) == (1, True)
        many["prefect_variables"] = many["prefect_variables"][:100]
        many["prefect_deployments"] = many["prefect_deployments"][:500]
        pruned, server = reconcile(api, many, Wish(prune=True))
        server.close()
        assert len(pruned.plans) == 950
        assert pruned.requests <= 950 + 60


def daily(number: int) -> Wanted:
    deployments = [{"flow": f"f{n}", "name": "daily", "schedules": [{"interval": 60}]} for n in range(number)]
    return {"prefect_deployments": deployments}


def test_many_deployments_of_one_name(fake: FakeApi) -> None:
    """PostgreSQL orders them differently for each page."""
    with Api(fake.url) as api:
        reconcile(api, daily(450), Wish())[1].close()
        order = random.Random(7)

        def shuffle(request: str) -> None:
            deployments = list(fake.deployments.items())
            order.shuffle(deployments)
            fake.deployments = dict(deployments)

        fake.before = shuffle
        fake.requests.clear()
        again, server = reconcile(api, daily(450), Wish(prune=True))
        server.close()
    assert (again.changed, fake.writes) == (False, [])


def test_what_a_listing_misses_is_not_created(fake: FakeApi) -> None:
    """The request that creates a deployment overwrites one that exists, and wipes its schedules."""
    with Api(fake.url) as api:
        reconcile(api, daily(250), Wish())[1].close()
        (hidden,) = [row for row in fake.deployments.values() if fake.flows[row["flow_id"]]["name"] == "f7"]

        def hide(request: str) -> None:
            fake.deployments.pop(hidden["id"], None)
            if request != "POST /deployments/filter":
                fake.deployments[hidden["id"]] = hidden

        fake.before = hide
        fake.requests.clear()
        again, server = reconcile(api, daily(250), Wish(prune=True))
        server.close()
    assert (again.changed, fake.writes) == (False, [])


@pytest.mark.parametrize("reverse", [False, True])
def test_deep_chains_and_wide_fans_are_put_in_order(reverse: bool) -> None:
    """Ten thousand tasks, each after the one before, half of which are not active."""
    size = 10_000
    chain = [
        {
            "name": f"t{place}",
            "flow_name": "etl",
            "use": "shop.tasks:load",
            "depends_on": [f"t{place - 1}"] if place else [],
            "is_active": place % 2 == 0,
        }
        for place in range(size)
    ]
    data = {"prefect_flows": [{"name": "etl"}], "prefect_tasks": [*reversed(chain)] if reverse else chain}
    made = Definitions.of(rows_of(data)).tasks_of("etl")
    assert [item.name for item in made] == [f"t{place}" for place in range(0, size, 2)]
    assert made[-1].depends_on == [f"t{size - 4}"]
