"""Everything in one call, killed at any request that writes."""

from __future__ import annotations

import copy

import pytest
from all_kinds import ALL, NOTHING, act, everything, without
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api, Failure
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.reconcile import reconcile
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.wishes import Wish
from fake_api import FakeApi, Fault


@pytest.mark.parametrize("point", range(1, 20, 2))
def test_killed_at_any_point(point: int) -> None:
    """The next run ends where an undisturbed one does, and prune knows what was made."""
    changed = without("prefect_variables", 0)
    changed["prefect_deployments"] = [{**ALL["prefect_deployments"][0], "schedules": [{"cron": "0 7 * * *"}]}]
    with FakeApi() as undisturbed:
        act(undisturbed, ALL)
        act(undisturbed, changed, prune=True)
        expected = everything(undisturbed)
    with FakeApi() as fake, Api(fake.url) as api:

        def kill(request: str) -> None:
            if len(fake.writes) == point:
                fake.faults.append(Fault(status=500, carried_out=point % 4 == 1))

        fake.before = kill
        with pytest.raises(Failure):
            reconcile(api, copy.deepcopy(ALL), Wish(concurrency=1))
        fake.before = lambda request: None
        act(fake, ALL)
        act(fake, changed, prune=True)
        assert everything(fake) == expected
        assert act(fake, changed, prune=True)["changed"] is False
        act(fake, NOTHING, prune=True)
        assert not any(everything(fake).values())
