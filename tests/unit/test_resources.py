"""Everything in one call: what is planned, refused, pruned and finished later, and how many requests it takes."""

from __future__ import annotations

import copy
import json
import random
import re
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from all_kinds import ALL, NOTHING, Wanted, act, everything, without
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api, Failure
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.engine import Server
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.execute import Gate
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.ownership import Ownership, promise
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.reconcile import reconcile
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.table import KINDS, listed
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.wishes import Wish
from ansible_collections.selfhosted.prefect.plugins.modules import resources
from fake_api import FakeApi, Fault, outcome

ROOT = Path(__file__).resolve().parents[2]


def test_dry_for_real_and_again(fake: FakeApi) -> None:
    dry = act(fake, ALL, check_mode=True)
    assert fake.writes == []
    real = act(fake, ALL)
    assert "msg" not in real, real.get("msg")
    for key in ("changed", "plan", "changes", "summary", "diff"):
        assert dry[key] == real[key], key
    assert real["summary"]["create"] == 15
    writes = len(fake.writes)
    again = act(fake, ALL)
    assert (again["changed"], again["plan"], again["summary"]["unchanged"]) == (False, [], 14)
    assert len(fake.writes) == writes


def test_the_lists_may_come_together(fake: FakeApi) -> None:
    lists = copy.deepcopy(ALL)
    shop = lists.pop("prefect_variables")
    real = act(fake, {}, lists={**lists, "prefect_variables": [{"name": "other", "value": 1}]}, prefect_variables=shop)
    assert "hush" not in json.dumps(real)
    assert not act(fake, ALL, prune=True)["changed"]
    wrong = act(fake, {}, lists={"prefect_variable": [], "prefect_blocks": [{"type": "secret", "value": "hush-hush"}]})
    assert "prefect_variable is unknown; prefect_variables?" in wrong["msg"]
    assert "hush" not in json.dumps(wrong)


def test_the_plan_is_readable(fake: FakeApi) -> None:
    act(fake, ALL)
    changed = copy.deepcopy(ALL)
    changed["prefect_work_pools"][0]["concurrency_limit"] = 4
    changed["prefect_deployments"][0]["schedules"][0]["cron"] = "0 7 * * *"
    changed["prefect_variables"] = [{"name": "shop", "state": "absent"}, {"name": "new", "value": 1}]
    assert act(fake, changed, check_mode=True)["plan"] == [
        "+ variable new (value: 1)",
        "~ work pool main (concurrency_limit: 3 -> 4)",
        "~ deployment stock/daily (schedules: cron 0 6 * * * UTC; interval 60.0 UTC -> "
        "cron 0 7 * * * UTC; interval 60.0 UTC)",
        "- variable shop",
    ]


def test_what_is_written_is_what_was_asked(fake: FakeApi) -> None:
    act(fake, ALL)
    queues = {name: queue["priority"] for (_, name), queue in fake.queues.items()}
    assert (queues["urgent"], queues["slow"]) == (1, 3)
    daily = next(each for each in fake.deployments.values() if each["schedules"])
    assert daily["global_concurrency_limit"]["name"] == "database"
    assert sorted(str(each["max_scheduled_runs"]) for each in daily["schedules"]) == ["3", "None"]
    tell = fake.objects.first("automations", name="Tell")
    other = fake.objects.first("automations", name="Other")
    assert tell and other
    assert [action.get("deployment_id") for action in tell["actions"]] == [None, daily["id"], None]
    assert tell["actions"][2]["automation_id"] == other["id"]


def test_secrets_are_never_shown(fake: FakeApi) -> None:
    shown = [act(fake, ALL, check_mode=True), act(fake, ALL)]
    changed = copy.deepcopy(ALL)
    changed["prefect_blocks"][1]["data"]["value"] = "hush-other"
    shown.append(act(fake, changed))
    changed["prefect_variables"][0]["name"] = "Wrong"
    shown.append(act(fake, changed))
    changed["prefect_blocks"][1] = {"block_type": "secret", "name": "word", "dta": {"value": "hush-lost"}}
    shown.append(act(fake, changed))
    assert "hush" not in json.dumps(shown)
    assert shown[2]["plan"] == ['~ block secret/word (data: {"value": "********"} -> {"value": "******** (new)"})']
    assert shown[3]["failed"]


def template(command: str) -> dict[str, Any]:
    return {"job_configuration": {"command": command}, "variables": {"type": "object", "properties": {"a": {}}}}


BAD: list[tuple[Wanted, str]] = [
    ({"prefect_work_pools": [{"name": "a", "concurency_limit": 1}]}, "concurency_limit is unknown; concurrency_limit?"),
    ({"prefect_work_pools": [{}]}, "missing required arguments: name"),
    ({"prefect_work_pools": [{"name": "a"}, {"name": "a"}]}, "it is described twice, see prefect_work_pools[0]"),
    ({"prefect_work_pools": [{"name": "a", "concurrency_limit": "many"}]}, "unable to convert to int"),
    ({"prefect_deployments": [{"flow": "f", "name": "d", "work_pool": "mian"}]}, "no work pool mian; main?"),
    ({"prefect_work_queues": [{"work_pool": "none", "name": "q"}]}, "no work pool none"),
    ({"prefect_blocks": [{"block_type": "secrt", "name": "a", "data": {}}]}, "no block type secrt; secret?"),
    (
        {"prefect_deployments": [{"flow": "f", "name": "d", "schedules": [{"crn": "* * * * *"}]}]},
        "schedules[0]: crn is unknown; cron?",
    ),
    (
        {"prefect_deployments": [{"flow": "f", "name": "d", "schedules": [{"cron": "* * * * *", "rrule": "x"}]}]},
        "schedules[0]: a schedule is one of cron, interval and rrule",
    ),
    ({"prefect_deployments": [{"flow": "f", "name": "d", "schedules": [{"cron": "x"}]}]}, "Invalid cron string"),
    ({"prefect_deployments": [{"flow": "f", "name": "d", "schedules": [{"interval": 1e-7}]}]}, "interval is 1e-07"),
    (
        {
            "prefect_work_queues": [
                {"work_pool": "main", "name": "a", "priority": 1},
                {"work_pool": "main", "name": "b", "priority": 1},
            ]
        },
        "prefect_work_queues[1] (main/b): priority is 1, as that of main/a",
    ),
    (
        {"prefect_work_pools": [{"name": "a", "base_job_template": template("{{ prefect.variables.a }}")}]},
        "uses prefect.variables.a, which variables lack; make it the default of a variable",
    ),
    (
        {"prefect_work_pools": [{"name": "a", "base_job_template": template("{{ $HOME }}")}]},
        "uses $HOME, which variables lack",
    ),
    (
        {"prefect_deployments": [{"flow": "f", "name": "d", "parameters": {"itmes": 1}}]},
        "parameters.itmes is unknown to the flow; items?",
    ),
    ({"prefect_work_pools": [{"name": "main", "type": "docker"}]}, "type is 'process', not 'docker'"),
    (
        {
            "prefect_work_pools": [{"name": "main", "state": "absent"}],
            "prefect_deployments": [{"flow": "g", "name": "d", "work_pool": "main"}],
        },
        "it needs the work pool main, which is to be absent",
    ),
    ({"prefect_variables": [{"name": "new"}]}, "value is missing: a new variable needs it"),
    ({"prefect_block_types": [{"slug": "secret", "state": "absent"}]}, "it belongs to Prefect itself"),
]


@pytest.mark.parametrize(("wanted", "words"), BAD)
def test_bad_input(fake: FakeApi, wanted: Wanted, words: str) -> None:
    fake.add_pool("main")
    fake.add_deployment("f", "d", pool=None)["parameter_openapi_schema"] = {"properties": {"items": {}}}
    result = act(fake, wanted)
    assert result["failed"]
    assert words in result["msg"]
    assert "nothing was written" in result["msg"]
    assert fake.writes == []


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_cannot_say(fake: FakeApi, number: float) -> None:
    with Api(fake.url) as api:
        for wanted in (
            {"prefect_variables": [{"name": "shop", "value": {"limits": [number]}}]},
            {"prefect_deployments": [{"flow": "stock", "name": "daily", "parameters": {"x": number}}]},
        ):
            with pytest.raises(Failure, match=r"(value|parameters): JSON has no NaN or Infinity") as raised:
                reconcile(api, wanted, Wish())
            assert re.search(r"\((value\.limits\[0\]|parameters\.x)\)", str(raised.value))
        with pytest.raises(Failure, match="JSON has no NaN"):
            api.post("/deployments/1/create_flow_run", {"parameters": {"x": number}})
    assert fake.requests == []


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"prefect_variables": [{"name": "a", "value": ["x", "y\0"]}]}, "U+0000, which PostgreSQL does not store"),
        (
            {"prefect_work_pools": [{"name": "a", "description": "x\ud83d"}]},
            "description: it holds half of a surrogate pair",
        ),
        ({"prefect_deployments": [{"flow": "f", "name": "\udc00"}]}, "name: it holds half of a surrogate pair"),
        ({"prefect_deployments": [{"flow": "f", "name": "a", "parameters": {"\0": 1}}]}, "parameters: it holds the"),
        ({"prefect_variables": [{"name": "a", "value": {"x": [2**64]}}]}, "a number of more than 64 bits"),
    ],
)
def test_what_a_server_cannot_store(fake: FakeApi, wanted: Wanted, words: str) -> None:
    """A text with half of a character is stored by SQLite and never read again: every listing of its kind fails."""
    with Api(fake.url) as api, pytest.raises(Failure) as raised:
        reconcile(api, wanted, Wish())
    assert words in str(raised.value)
    assert fake.requests == []


def test_a_schema_has_the_capabilities(fake: FakeApi) -> None:
    wanted: Wanted = {"prefect_block_types": [{"slug": "account", "capabilities": ["read"]}]}
    assert "capabilities are those of a schema, and it has none" in act(fake, wanted)["msg"]
    assert fake.writes == []


@pytest.mark.parametrize(
    "data",
    [
        {"others": [{"$ref": "secret/one"}, {"deeper": [{"$ref": "secret/two"}]}]},
        {"other": {"$ref": "secret/one"}, "others": {"first": {"$ref": "secret/two"}}},
    ],
)
def test_other_blocks_at_any_depth_of_a_block(fake: FakeApi, data: Any) -> None:
    wanted: Wanted = {
        "prefect_block_types": [{"slug": "account", "schema": {"properties": {"other": {}, "others": {}}}}],
        "prefect_blocks": [
            {"block_type": "secret", "name": "one", "data": {"value": "x"}},
            {"block_type": "secret", "name": "two", "data": {"value": "y"}},
            {"block_type": "account", "name": "shop", "data": data},
        ],
    }
    assert act(fake, wanted)["changed"] is True
    assert act(fake, wanted)["plan"] == []
    secret = fake.objects.first("block_documents", name="two")
    assert secret
    assert act(fake, {"prefect_blocks": wanted["prefect_blocks"][2:]}, prune=True)["kept"]
    with Api(fake.url) as api:
        exported = listed(Server(api, KINDS, bulk=True), KINDS, secrets=True)
    assert act(fake, exported)["plan"] == []


def test_everything_that_is_wrong_is_said_at_once(fake: FakeApi) -> None:
    wanted: Wanted = {
        "prefect_work_pools": [{"name": "a/b"}, {"nmae": "x"}],
        "prefect_variables": [{"name": "A", "value": 1}, {"name": "b", "vlaue": 1}],
        "prefect_automations": [{"name": "a", "trigger": {"expct": []}, "actions": []}],
    }
    assert len(act(fake, wanted)["errors"]) == 5
    assert fake.requests == []
    wanted = {
        "prefect_deployments": [
            {"flow": "f", "name": "a", "work_pool": "none"},
            {"flow": "f", "name": "b", "schedules": [{"cron": "99 * * * *"}, {"interval": 5, "timezone": "Nowhere"}]},
        ],
        "prefect_blocks": [{"block_type": "secret", "name": "a", "data": {}}],
    }
    assert len(act(fake, wanted)["errors"]) == 4
    assert fake.writes == []


def test_an_unknown_kind(fake: FakeApi) -> None:
    with Api(fake.url) as api, pytest.raises(Failure, match=r"prefect_workpools is unknown; prefect_work_pools\?"):
        reconcile(api, {"prefect_workpools": []}, Wish())


def test_an_old_server(fake: FakeApi) -> None:
    fake.version = "3.4.25"
    assert "is Prefect 3.4.25: this needs 3.5 or newer" in act(fake, ALL)["msg"]


def test_wrong_credentials(fake: FakeApi) -> None:
    fake.auth = "admin:password"
    assert "set api_auth" in act(fake, ALL)["msg"]


def test_a_server_that_goes_away_half_way(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    def go(request: str) -> None:
        if request.startswith("POST /deployments/") and not request.endswith("filter") and "schedules" not in request:
            fake.faults.append(Fault(status=500, body={"exception_message": "Internal Server Error"}))

    fake.before = go
    result = act(fake, ALL)
    assert result["failed"]
    assert result["changed"] is True
    assert any(line.startswith("+ work pool main") for line in result["done"])
    assert result["request"]["status"] == 500
    fake.before = lambda request: None
    assert "msg" not in act(fake, ALL)
    assert act(fake, ALL)["changed"] is False


def test_a_server_that_does_not_come_back(fake: FakeApi) -> None:
    def go(request: str) -> None:
        if len(fake.writes) >= 4:
            fake.faults.append(Fault(status=None))

    fake.before = go
    with Api(fake.url, patience=0.1) as api, pytest.raises(Failure) as caught:
        reconcile(api, copy.deepcopy(ALL), Wish())
    assert (caught.value.details["request"]["status"], caught.value.details["changed"]) == (None, True)
    assert len(caught.value.details["done"]) > 0
    fake.before = lambda request: None
    fake.faults.clear()
    assert "msg" not in act(fake, ALL, prune=True)
    assert act(fake, ALL, prune=True)["changed"] is False


TEMPLATE: dict[str, Any] = {"job_configuration": {"a": 1}, "variables": {"type": "object"}}
RULE = {"schedule_type": "rrule", "schedule_config": {"rrule": "FREQ=DAILY"}}

OLD_WORDS: Wanted = {
    "prefect_work_pools": [
        {
            "name": "main",
            "pool_type": "process",
            "config": {"base_job_template": TEMPLATE},
        }
    ],
    "prefect_flows": [{"name": "etl", "description": "x", "flow_type": "batch", "tags": ["a"], "is_active": 1}],
    "prefect_deployments": [
        {
            "name": "hourly",
            "flow_name": "etl",
            "work_pool_name": "main",
            "work_queue_name": "default",
            "schedule_type": "cron",
            "schedule_config": {"cron_string": "0 * * * *", "timezone": "Europe/Berlin"},
            "is_active": True,
        },
        {
            "name": "often",
            "flow_name": "etl",
            "schedule_type": "interval",
            "schedule_config": {"interval_seconds": 60},
            "is_active": 0,
        },
        {
            "name": "rule",
            "flow_name": "etl",
            "schedules": [{"schedule_type": "rrule", "schedule_config": {"rrule": "FREQ=DAILY"}}],
        },
        {"name": "manual", "flow_name": "etl", "schedule": {"interval": 0}},
    ],
}


def test_words_of_older_definitions(fake: FakeApi) -> None:
    result = act(fake, OLD_WORDS)
    assert "msg" not in result, result.get("msg")
    found = {each["name"]: each for each in fake.deployments.values()}
    schedules = {name: [each["schedule"] for each in row["schedules"]] for name, row in found.items()}
    assert schedules["hourly"] == [{"cron": "0 * * * *", "timezone": "Europe/Berlin", "day_or": True}]
    assert schedules["often"][0]["interval"] == 60
    assert schedules["rule"][0]["rrule"].endswith("FREQ=DAILY")
    assert schedules["manual"] == []
    assert (found["hourly"]["paused"], found["often"]["paused"]) == (False, True)
    assert act(fake, OLD_WORDS)["changed"] is False
    assert act(fake, OLD_WORDS, inactive="absent")["plan"] == ["- deployment etl/often"]


def test_the_examples_of_the_module_run(fake: FakeApi) -> None:
    options = yaml.load(resources.EXAMPLES, yaml.CSafeLoader)[0]["selfhosted.prefect.resources"]
    assert outcome(resources.main, **{**options, "api_url": fake.url})["changed"] is True


def test_prune_takes_what_we_made_and_nothing_else(fake: FakeApi) -> None:
    fake.add_pool("foreign")
    fake.add_deployment("foreign", "daily", pool="foreign")
    fake.objects.add("variables", name="foreign", value=1, tags=[])
    before = everything(fake)
    act(fake, ALL)
    assert act(fake, NOTHING)["plan"] == []
    dry = act(fake, NOTHING, prune=True, check_mode=True)
    assert len(dry["plan"]) == 15
    real = act(fake, NOTHING, prune=True)
    assert real["plan"] == dry["plan"]
    assert everything(fake) == before
    assert act(fake, NOTHING, prune=True)["changed"] is False
    assert [each["name"] for each in fake.objects.of("variables")] == ["foreign"]


@pytest.mark.parametrize("kind", [name for name in ALL if name not in {"prefect_flows", "prefect_block_types"}])
def test_prune_one_of_each_kind(fake: FakeApi, kind: str) -> None:
    """What something needs that stays is kept."""
    act(fake, ALL)
    before = everything(fake)
    wanted = without(kind, 0)
    result = act(fake, wanted, prune=True)
    needed = {"prefect_work_pools", "prefect_global_concurrency_limits", "prefect_deployments"}
    if kind in needed:
        assert result["kept"][0].endswith("needs it")
        assert (result["changed"], everything(fake)) == (False, before)
    else:
        assert result["summary"]["delete"] == 1
        assert act(fake, wanted, prune=True)["changed"] is False


def test_a_list_that_is_left_out_is_left_alone(fake: FakeApi) -> None:
    act(fake, ALL)
    assert act(fake, {"prefect_variables": []}, prune=True)["plan"] == ["- variable shop"]


def test_an_object_that_a_person_recreated_is_not_pruned(fake: FakeApi) -> None:
    act(fake, ALL)
    variable = fake.objects.first("variables", name="shop")
    assert variable
    del fake.objects.rows["variables"][variable["id"]]
    fake.objects.add("variables", name="shop", value=1, tags=[])
    assert act(fake, {"prefect_variables": []}, prune=True)["plan"] == []


def test_owners_do_not_prune_each_other(fake: FakeApi) -> None:
    one: Wanted = {"prefect_variables": [{"name": "one", "value": 1}]}
    two: Wanted = {"prefect_variables": [{"name": "two", "value": 2}]}
    act(fake, one, owner="one", prune=True)
    act(fake, two, owner="two", prune=True)
    assert act(fake, one, owner="one", prune=True)["changed"] is False
    assert act(fake, {"prefect_variables": []}, owner="two", prune=True)["plan"] == ["- variable two"]


def test_a_deployment_has_one_owner(fake: FakeApi) -> None:
    """Each owner would change what the other one makes; `adopt` says who has it."""
    wanted: Wanted = {"prefect_deployments": [{"flow": "stock", "name": "daily"}]}
    none: Wanted = {"prefect_deployments": []}
    data: dict[str, Any] = {"owner": "definitions", "adopt": True, "prune": True}
    act(fake, wanted, prune=True)
    assert act(fake, wanted, **data)["summary"]["adopted"] == 1
    assert act(fake, wanted, **data)["changed"] is False
    assert act(fake, wanted)["changed"] is False
    writes = list(fake.writes)
    other: Wanted = {"prefect_deployments": [{"flow": "stock", "name": "daily", "tags": ["x"]}]}
    refused = act(fake, {**other, "prefect_variables": [{"name": "shop", "value": 1}]})
    assert "prefect_deployments[0] (stock/daily): the owner definitions has made it" in refused["msg"]
    assert fake.writes == writes
    assert act(fake, {"prefect_deployments": [{"flow": "stock", "name": "daily", "paused": True}]})["changed"] is True
    assert act(fake, none, prune=True)["changed"] is False
    assert act(fake, wanted, adopt=True, check_mode=True)["changed"] is True
    assert act(fake, wanted, adopt=True)["changed"] is True
    assert act(fake, none, **data)["plan"] == []
    assert act(fake, none, prune=True)["plan"] == ["- deployment stock/daily", "- flow stock"]


SHARED: Wanted = {
    "prefect_work_pools": [{"name": "shared", "type": "process", "concurrency_limit": 7}],
    "prefect_flows": [{"name": "etl", "tags": ["a"]}],
    "prefect_deployments": [{"flow": "etl", "name": "daily", "entrypoint": "a.py:etl", "work_pool": "shared"}],
}


def test_definitions_take_what_no_one_made_and_nothing_else(fake: FakeApi) -> None:
    """As `prefect_definitions` and its follower register flows that are data."""
    data: dict[str, Any] = {"owner": "team-b-definitions", "adopt": "unowned", "prune": True, "pauses": "enforce"}
    fake.add_pool("own")
    own: Wanted = {**NOTHING, "prefect_work_pools": [{"name": "own", "type": "process"}]}
    act(fake, SHARED, owner="team-a", prune=True)
    before = everything(fake)
    for changed in (
        {"prefect_work_pools": [{"name": "shared", "type": "process", "concurrency_limit": 8}]},
        {"prefect_flows": [{"name": "etl", "tags": ["b"]}]},
        {"prefect_deployments": [{"flow": "etl", "name": "daily", "entrypoint": "definitions.py:etl"}]},
        {"prefect_deployments": [{"flow": "etl", "name": "daily", "state": "absent"}]},
    ):
        refused = act(fake, {**own, **changed}, **data)
        assert "the owner team-a has made it" in refused.get("msg", ""), (changed, refused)
        assert everything(fake) == before
    # Those that are as described are left to their owner as well.
    same: Wanted = {**SHARED, "prefect_work_pools": [*own["prefect_work_pools"], {"name": "shared", "type": "process"}]}
    assert act(fake, same, **data)["summary"]["adopted"] == 1
    assert act(fake, same, **data)["changed"] is False
    assert act(fake, NOTHING, **data)["plan"] == ["- work pool own"]
    assert act(fake, SHARED, owner="team-a", prune=True)["changed"] is False


def test_definitions_do_not_adopt_the_flow_of_another_owners_deployment(fake: FakeApi) -> None:
    data: dict[str, Any] = {"owner": "team-b-definitions", "adopt": "unowned", "prune": True}
    act(fake, {"prefect_deployments": [{"flow": "etl", "name": "daily"}]}, owner="team-a")
    wanted: Wanted = {"prefect_flows": [{"name": "etl"}], "prefect_deployments": [{"flow": "etl", "name": "nightly"}]}
    assert act(fake, wanted, **data)["summary"]["adopted"] == 0
    assert act(fake, wanted, **data)["changed"] is False


def test_adopting(fake: FakeApi) -> None:
    fake.objects.add("variables", name="shop", value=1, tags=[])
    wanted: Wanted = {"prefect_variables": [{"name": "shop", "value": 1}]}
    assert act(fake, wanted)["changed"] is False
    assert act(fake, {"prefect_variables": []}, prune=True)["plan"] == []
    assert act(fake, wanted, adopt=True, check_mode=True)["summary"]["adopted"] == 1
    assert act(fake, wanted, adopt=True)["changed"] is True
    assert act(fake, wanted, adopt=True)["changed"] is False
    assert act(fake, {"prefect_variables": []}, prune=True)["plan"] == ["- variable shop"]


def test_flows_with_a_history_are_kept(fake: FakeApi) -> None:
    act(fake, ALL)
    flow = next(each for each in fake.flows.values() if each["name"] == "report")
    fake.add_run(kind="COMPLETED", name="Completed", flow_id=flow["id"])
    result = act(fake, NOTHING, prune=True)
    assert result["kept"] == ["flow report: not deleted, the history of its 1 runs would go with it"]
    assert "report" in [each["name"] for each in fake.flows.values()]


def test_a_persons_pause_is_kept(fake: FakeApi) -> None:
    wanted: Wanted = {
        "prefect_deployments": [
            {"flow": "f", "name": "d", "paused": False, "schedules": [{"cron": "0 6 * * *", "active": True}]}
        ]
    }
    act(fake, wanted)
    (row,) = fake.deployments.values()
    row["paused"], row["schedules"][0]["active"] = True, False
    result = act(fake, wanted)
    assert (result["changed"], len(result["kept"]), len(result["plan"])) == (False, 2, 2)
    assert act(fake, wanted, pauses="enforce")["changed"] is True
    assert (row["paused"], row["schedules"][0]["active"]) == (False, True)


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "lost"])
def test_a_creation_that_failed_owns_nothing(fake: FakeApi, silent: bool) -> None:
    """A colleague creates an object of that name later; it is neither pruned nor taken over."""
    wanted: Wanted = {"prefect_variables": [{"name": "shop", "value": 1}]}

    def fail(request: str) -> None:
        if fake.objects.first("variables", name="shop") is None and any(
            body and body.get("name") == "shop" for body in fake.bodies[-1:]
        ):
            fake.faults.extend([Fault(status=None)] * 30 if silent else [Fault(status=422, body={"detail": "no"})])

    fake.before = fail
    with Api(fake.url, patience=0.1) as api, pytest.raises(Failure):
        reconcile(api, copy.deepcopy(wanted), Wish())
    fake.before = lambda request: None
    fake.faults.clear()
    fake.objects.add("variables", name="shop", value="a colleague's", tags=[])
    assert act(fake, {"prefect_variables": []}, prune=True)["plan"] == []
    assert act(fake, wanted)["changed"] is True
    assert act(fake, {"prefect_variables": []}, prune=True)["plan"] == []


def test_no_promise_is_left(fake: FakeApi) -> None:
    act(fake, ALL)
    assert not [row["name"] for row in fake.objects.of("variables") if "promise" in row["name"]]


def test_a_promise_is_believed_for_an_hour(fake: FakeApi) -> None:
    wanted: Wanted = {"prefect_variables": [{"name": "shop", "value": 1}]}
    with Api(fake.url) as api:
        ownership = Ownership("ansible")
        ownership.give(api, [promise("variable", "shop", {"value": 1})])
    late = (datetime.now(timezone.utc) + timedelta(hours=2)).isoformat()
    fake.objects.add("variables", name="shop", value=1, tags=[])["created"] = late
    act(fake, wanted)
    assert act(fake, {"prefect_variables": []}, prune=True)["plan"] == []


def test_a_flow_that_was_described_stays_where_its_list_is_left_out(fake: FakeApi) -> None:
    deployments: Wanted = {"prefect_deployments": [{"flow": "stock", "name": "daily"}]}
    act(fake, {"prefect_flows": [{"name": "stock"}], **deployments})
    assert act(fake, {"prefect_deployments": []}, prune=True)["plan"] == ["- deployment stock/daily"]
    assert act(fake, {"prefect_flows": []}, prune=True)["plan"] == ["- flow stock"]


def test_what_the_former_default_owner_made_is_taken_over_once(fake: FakeApi) -> None:
    """All inventories had the same owner before each had its own."""
    wanted: Wanted = {"prefect_deployments": [{"flow": "stock", "name": "daily"}]}
    changed: Wanted = {"prefect_deployments": [{"flow": "stock", "name": "daily", "tags": ["x"]}]}
    act(fake, {**wanted, "prefect_variables": [{"name": "shop", "value": 1}]})
    assert act(fake, changed, owner="prod-1", check_mode=True)["changed"] is True
    assert act(fake, changed, owner="prod-1")["summary"]["adopted"] == 1
    assert act(fake, changed, owner="prod-1")["changed"] is False
    nothing: Wanted = {"prefect_deployments": [], "prefect_variables": []}
    assert act(fake, nothing, owner="prod-1", prune=True)["plan"] == ["- deployment stock/daily"]
    assert act(fake, nothing, prune=True)["plan"] == ["- flow stock", "- variable shop"]


def test_what_inventories_made_as_one_owner_is_taken_over_by_each(fake: FakeApi) -> None:
    one: Wanted = {"prefect_deployments": [{"flow": "stock", "name": "daily"}], "prefect_variables": []}
    act(fake, {**one, "prefect_variables": [{"name": "shop", "value": 1}]}, owner="inv-1")
    changed: Wanted = {**one, "prefect_deployments": [{"flow": "stock", "name": "daily", "tags": ["x"]}]}
    assert "the owner inv-1 has made it" in act(fake, changed, owner="a-yml-2", former_owner="inv-0")["msg"]
    assert act(fake, changed, owner="a-yml-2", former_owner="inv-1", prune=True)["summary"]["adopted"] == 1
    assert act(fake, changed, owner="a-yml-2", former_owner="inv-1", prune=True)["changed"] is False
    assert fake.objects.first("variables", name="shop") is not None


def test_what_is_listed_can_be_taken(fake: FakeApi) -> None:
    """By the same server, which changes nothing, and by an empty one, which becomes like it."""
    act(fake, ALL)
    with Api(fake.url) as api:
        found = listed(Server(api, KINDS, bulk=True), KINDS, secrets=True)
    same = act(fake, found)
    assert "msg" not in same, same.get("msg")
    assert same["plan"] == []
    with FakeApi() as empty:
        result = act(empty, found)
        assert "msg" not in result, result.get("msg")
        assert everything(empty) == everything(fake)


@pytest.mark.parametrize("seed", range(15))
def test_two_controllers_leave_nothing_that_has_no_owner(fake: FakeApi, seed: int) -> None:
    """Whatever the order of their requests, each keeps what the other remembers."""
    order = random.Random(seed)
    fake.before = lambda request: time.sleep(order.random() / 300)
    parts: list[Wanted] = [
        {"prefect_variables": [{"name": f"{name}{n}", "value": n} for n in range(4)]} for name in "ab"
    ]

    def run(part: Wanted) -> None:
        with Api(fake.url) as api:
            reconcile(api, copy.deepcopy(part), Wish())[1].close()

    threads = [threading.Thread(target=run, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fake.before = lambda request: None
    assert len(act(fake, {"prefect_variables": []}, prune=True)["plan"]) == 8
    assert fake.objects.of("variables") == []


def test_two_controllers_at_once(fake: FakeApi) -> None:
    results: list[dict[str, Any]] = []

    def run() -> None:
        with Api(fake.url) as api:
            report, server = reconcile(api, copy.deepcopy(ALL), Wish())
            results.append(report.result(server))
            server.close()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert act(fake, ALL)["changed"] is False
    assert sorted(each["name"] for each in fake.objects.of("automations")) == ["Other", "Tell"]
    assert {name: len(rows) for name, rows in everything(fake).items() if name in ALL and name != "prefect_flows"} == {
        name: len(rows) for name, rows in ALL.items() if name != "prefect_flows"
    }
    act(fake, NOTHING, prune=True)
    assert not any(rows for name, rows in everything(fake).items() if name != "prefect_block_types")


def test_our_own_duplicates_go(fake: FakeApi) -> None:
    """Those of other owners do not: which one is meant is unknown."""
    act(fake, ALL)
    created = fake.objects.first("automations", name="Other")
    assert created
    foreign = fake.objects.add(
        "automations", **{**copy.deepcopy(created), "id": "foreign", "created": "2099-01-01T00:00:00Z"}
    )
    assert "there are several automations of this name" in act(fake, ALL)["msg"]
    foreign["created"] = "2000-01-01T00:00:00Z"
    assert act(fake, ALL, check_mode=True)["plan"] == ["- automation Other"]
    assert act(fake, ALL)["changed"] is True
    assert fake.objects.first("automations", name="Other") == foreign
    assert act(fake, {}, prune=True, prefect_automations=[])["plan"] == ["- automation Tell"]


def test_the_automation_of_prefect_flow_run_silence_is_made_once(fake: FakeApi) -> None:
    variables = (ROOT / "roles/prefect_resources/vars/main.yml").read_text(encoding="utf-8")
    automation = yaml.load(variables, yaml.CSafeLoader)["__prefect_resources_silence"]
    assert automation["trigger"]["within"] == "{{ prefect_flow_run_silence | int }}"
    automation["trigger"]["within"] = 540
    wanted = {"prefect_automations": [automation]}
    (planned,) = act(fake, wanted)["plan"]
    assert planned.startswith("+ automation Crash silent flow runs (")
    assert act(fake, wanted)["changed"] is False


def test_a_server_that_is_busy(fake: FakeApi) -> None:
    count = 0

    def sometimes(request: str) -> None:
        nonlocal count
        count += 1
        if count % 7 == 0:
            fake.faults.append(Fault(status=503 if count % 2 else None))

    fake.before = sometimes
    assert "msg" not in act(fake, ALL)
    fake.before = lambda request: None
    assert act(fake, ALL)["changed"] is False
    assert len(fake.objects.of("automations")) == 2


def test_the_gate_adapts() -> None:
    gate = Gate(8)
    for _ in range(64):
        with gate:
            pass
    assert gate._limit == 8
    gate.busy()
    assert gate._limit == 4
    for _ in range(3):
        gate.busy()
    assert gate._limit == 1


def test_a_block_of_a_type_whose_schema_changes(fake: FakeApi) -> None:
    wanted: Wanted = {
        "prefect_block_types": [{"slug": "account", "schema": {"properties": {"host": {}}}}],
        "prefect_blocks": [{"block_type": "account", "name": "shop", "data": {"host": "a"}}],
    }
    act(fake, wanted)
    wanted["prefect_block_types"][0]["schema"] = {"properties": {"hosts": {}}}
    wanted["prefect_blocks"][0]["data"] = {"hosts": ["a"]}
    result = act(fake, wanted)
    assert "msg" not in result, result.get("msg")
    assert act(fake, wanted)["changed"] is False


def test_a_recreated_object_is_found_by_the_objects_that_need_it(fake: FakeApi) -> None:
    """A pool of another type has other ids, and so have its queues."""
    wanted = copy.deepcopy(ALL)
    wanted["prefect_automations"] = [
        {
            "name": "Pause",
            "trigger": {"expect": ["x"]},
            "actions": [
                {"type": "pause-work-queue", "work_queue": "main/urgent"},
                {"type": "pause-work-pool", "work_pool": "main"},
            ],
        }
    ]
    act(fake, wanted)
    wanted["prefect_work_pools"][0]["type"] = "docker"
    assert "recreate: true" in act(fake, wanted)["msg"]
    assert act(fake, wanted, recreate=True)["plan"][0] == "± work pool main (type: process -> docker)"
    pause = fake.objects.first("automations", name="Pause")
    assert pause
    assert [action.get("work_queue_id") or action.get("work_pool_id") for action in pause["actions"]] == [
        fake.queues[("main", "urgent")]["id"],
        fake.pools["main"]["id"],
    ]
    assert {each["work_pool_name"] for each in fake.deployments.values()} == {"main"}
    assert act(fake, wanted, recreate=True)["changed"] is False
