"""What the modules of single kinds say and refuse; what they write is in `test_kinds`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import matrix
import pytest
import yaml
from ansible_collections.selfhosted.prefect.plugins.modules import (
    automation,
    block,
    block_type,
    deployment,
    flow,
    global_concurrency_limit,
    resources,
    server_settings,
    tag_concurrency_limit,
    variable,
    work_pool,
    work_queue,
)
from fake_api import FakeApi, outcome

MODULES: dict[str, Any] = {
    "automation": automation,
    "block": block,
    "block_type": block_type,
    "deployment": deployment,
    "flow": flow,
    "global_concurrency_limit": global_concurrency_limit,
    "server_settings": server_settings,
    "tag_concurrency_limit": tag_concurrency_limit,
    "variable": variable,
    "work_pool": work_pool,
    "work_queue": work_queue,
}


@pytest.fixture
def fake() -> Iterator[FakeApi]:
    with FakeApi() as api:
        api.add_pool("main")
        yield api


def act(fake: FakeApi, module: str, *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    result: dict[str, Any] = outcome(MODULES[module].main, check_mode=check_mode, **{"api_url": fake.url, **options})
    return result


EXAMPLES = [
    pytest.param(name, number, id=f"{name}-{number}")
    for name, module in MODULES.items()
    for number in range(len(yaml.safe_load(module.EXAMPLES)))
    if name not in {"server_settings", "work_pool"}
]


@pytest.mark.parametrize(("module", "number"), EXAMPLES)
def test_the_examples_run(fake: FakeApi, module: str, number: int) -> None:
    """Each after those before it, on a server that has what they refer to; again, nothing changes."""
    act(fake, "block_type", slug="slack-webhook", schema={"properties": {"url": {}}, "secret_fields": ["url"]})
    act(fake, "block", block_type="slack-webhook", name="team", data={"url": "https://example.org"})
    if module != "deployment":
        act(fake, "deployment", flow="stock", name="daily")
        act(fake, "deployment", flow="report", name="daily")
    tasks = yaml.safe_load(MODULES[module].EXAMPLES)[: number + 1]
    for task in tasks:
        options = {**task[f"selfhosted.prefect.{module}"], "api_url": fake.url}
        result = outcome(MODULES[module].main, **options)
        assert "msg" not in result, result.get("msg")
    assert outcome(MODULES[module].main, **options)["changed"] is False


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        ("work_queue", {"work_pool": "mian", "name": "q"}, "there is no work pool mian; main?"),
        ("work_queue", {"work_pool": "main", "name": "q", "priority": 0}, "priority is 0: it is at least 1"),
        ("work_queue", {"work_pool": "main", "name": "default", "state": "absent"}, "it goes with the pool"),
        ("variable", {"name": "Shop", "value": 1}, "lowercase"),
        ("variable", {"name": "shop"}, "value is missing"),
        ("variable", {"name": "ansible_owner_x_0", "value": 1}, "kept for"),
        ("variable", {"name": "shop", "value": "x" * 5000}, "5000 characters"),
        ("global_concurrency_limit", {"name": "tag:a", "limit": 1}, "see tag_concurrency_limit"),
        ("global_concurrency_limit", {"name": "deployment:a", "limit": 1}, "a deployment's concurrency_limit"),
        ("global_concurrency_limit", {"name": "a", "limit": -1}, "limit is -1: it is at least 0"),
        ("global_concurrency_limit", {"name": "a"}, "limit is missing"),
        ("tag_concurrency_limit", {"tag": "a/b", "concurrency_limit": 1}, "hold a /"),
        ("flow", {"name": "a/b"}, "/ % & < >"),
        ("block_type", {"slug": "My"}, "lowercase"),
        ("block", {"block_type": "secrt", "name": "a", "data": {"value": 1}}, "no block type secrt; secret?"),
        ("block", {"block_type": "secret", "name": "a", "data": {"valeu": "x"}}, "is unknown; value?"),
        ("block", {"block_type": "secret", "name": "a", "data": {}}, "data.value is missing"),
        ("block", {"block_type": "secret", "name": "A", "data": {"value": 1}}, "lowercase"),
        ("deployment", {"work_pool": "mian"}, "there is no work pool mian; main?"),
        ("deployment", {"work_pool": "main", "work_queue": "slow"}, "there is no work queue main/slow"),
        ("deployment", {"work_queue": "slow"}, "work_queue needs a work_pool"),
        ("deployment", {"global_concurrency_limit": "x"}, "there is no global concurrency limit x"),
        ("deployment", {"concurrency_limit": 1, "global_concurrency_limit": "x"}, "exclude each other"),
        ("deployment", {"concurrency_limit": 0}, "at least 1"),
        ("deployment", {"schedules": [{"cron": "* * * * *", "interval": 5}]}, "not cron and interval"),
        ("deployment", {"schedules": [{}]}, "not none of them"),
        ("deployment", {"schedules": [{"interval": 0}]}, "above 0"),
        ("deployment", {"schedules": [{"interval": 5, "day_or": True}]}, "day_or belongs to cron"),
        ("deployment", {"schedules": [{"interval": 5, "anchor_date": "soon"}]}, "anchor_date is 'soon'"),
        ("deployment", {"schedules": [{"interval": 5, "slug": "a"}, {"interval": 6, "slug": "a"}]}, "the slug a"),
        ("deployment", {"schedules": [{"cron": "99 * * * *"}]}, 'schedules[0]: Invalid cron string: "99 * * * *"'),
        ("deployment", {"schedules": [{"rrule": "FREQ=OFTEN"}]}, "Invalid RRule string"),
        ("deployment", {"schedules": [{"interval": 5, "timezone": "Europe/Berln"}]}, "not know; Europe/Berlin?"),
        (
            "deployment",
            {"parameters": {"b": 1, "cc": 2}, "parameter_openapi_schema": {"properties": {"b": {"type": "string"}}}},
            "parameters.b is 1: it is of type string",
        ),
        (
            "deployment",
            {"parameters": {"itmes": 2}, "parameter_openapi_schema": {"properties": {"items": {}}}},
            "parameters.itmes is unknown to the flow; items?",
        ),
        ("automation", {"trigger": {"postur": 1}, "actions": []}, "trigger.postur is unknown: posture?"),
        ("automation", {"trigger": {"type": "metric"}, "actions": []}, "one of compound, event, sequence"),
        ("automation", {"trigger": {"posture": "Proactive"}, "actions": []}, "at least 10 seconds"),
        ("automation", {"trigger": {"within": "soon"}, "actions": []}, "number of seconds"),
        ("automation", {"trigger": {"type": "compound", "triggers": []}, "actions": []}, "has others"),
        (
            "automation",
            {"trigger": {"type": "compound", "require": 2, "triggers": [{}]}, "actions": []},
            "a number from 1 to 1",
        ),
        ("automation", {"trigger": {}, "actions": [{"type": "run-deploymnt"}]}, "run-deployment?"),
        ("automation", {"trigger": {}, "actions": [{"type": "run-deployment"}]}, "or source: inferred"),
        ("automation", {"trigger": {}, "actions": [{"type": "send-notification", "block": "a/b"}]}, "body is missing"),
        (
            "automation",
            {"trigger": {}, "actions": [{"type": "run-deployment", "deployment": "a/b"}]},
            "there is no deployment a/b",
        ),
        ("automation", {"trigger": {}}, "actions is missing"),
    ],
)
def test_refused_before_the_first_write(fake: FakeApi, module: str, options: dict[str, Any], words: str) -> None:
    key: Any = {"deployment": {"flow": "f", "name": "d"}, "automation": {"name": "a"}}.get(module, {})
    result = act(fake, module, **key, **options)
    assert result["failed"]
    assert words in result["msg"]
    assert fake.writes == []


def test_a_secret_is_never_shown(fake: FakeApi) -> None:
    secret = "hush-hush\nand-quiet"
    block_of: Any = {"block_type": "secret", "name": "word"}
    shown = []
    for data in ({"value": secret}, {"value": secret}, {"value": f"{secret}!"}):
        shown += [act(fake, "block", **block_of, data=data, check_mode=dry) for dry in (True, False)]
    assert [each["changed"] for each in shown] == [True, True, False, False, True, True]
    assert "hush" not in json.dumps(shown)
    assert "quiet" not in json.dumps(shown)
    assert shown[-1]["diff"]["after"]["data"] == {"value": "******** (new)"}
    assert shown[-1]["object"]["name"] == "word"
    assert fake.objects.of("block_documents")[0]["data"] == {"value": f"{secret}!"}


def test_what_is_no_secret_is_shown(fake: FakeApi) -> None:
    """Ansible alone would hide every text that equals any value of the option."""
    act(fake, "block_type", slug="main", schema={"properties": {"pool": {}, "word": {}}, "secret_fields": ["word"]})
    result = act(fake, "block", block_type="main", name="main", data={"pool": "main", "word": "hush"})
    assert result["object"]["data"] == {"pool": "main", "word": "********"}
    assert result["object"]["name"] == "main"
    assert "hush" not in json.dumps(result)


def test_a_secret_is_not_in_an_error(fake: FakeApi) -> None:
    result = act(fake, "block", block_type="secret", name="word", data={"vale": "hush"})
    assert result["failed"]
    assert "hush" not in json.dumps(result)


def test_an_unchanged_schedule_keeps_its_id(fake: FakeApi) -> None:
    first = [{"cron": "0 6 * * *"}, {"interval": 600}, {"rrule": "FREQ=DAILY"}]
    act(fake, "deployment", flow="f", name="d", schedules=first)
    (row,) = fake.deployments.values()
    before = {json.dumps(each["schedule"]): each["id"] for each in row["schedules"]}
    changed = [{"rrule": "FREQ=DAILY"}, {"cron": "0 7 * * *"}, {"interval": 600}]
    act(fake, "deployment", flow="f", name="d", schedules=changed)
    after = {json.dumps(each["schedule"]): each["id"] for each in row["schedules"]}
    assert set(before.values()) == set(after.values())
    assert len(set(before) & set(after)) == 2
    assert sum(write.startswith("PATCH") for write in fake.writes) == 1


def test_a_pause_is_ended_or_kept(fake: FakeApi) -> None:
    wanted: Any = {"flow": "f", "name": "d", "paused": False, "schedules": [{"cron": "0 6 * * *", "active": True}]}
    act(fake, "deployment", **wanted)
    (row,) = fake.deployments.values()
    row["paused"] = row["schedules"][0]["active"] = False
    row["paused"] = True
    kept = act(fake, "deployment", **wanted, pauses="keep")
    assert (kept["changed"], kept["kept"]) == (False, ["paused", "schedule 0 6 * * * inactive"])
    assert act(fake, "deployment", **wanted)["changed"] is True
    assert (row["paused"], row["schedules"][0]["active"]) == (False, True)


def test_a_shared_limit_survives(fake: FakeApi) -> None:
    act(fake, "global_concurrency_limit", name="shared", limit=5)
    dep: Any = {"flow": "f", "name": "d"}
    for options in (
        {"global_concurrency_limit": "shared"},
        {"concurrency_limit": 2},
        {"global_concurrency_limit": "shared"},
        {"concurrency_limit": -1, "global_concurrency_limit": ""},
        {"global_concurrency_limit": "shared"},
        {"state": "absent"},
    ):
        assert act(fake, "deployment", **dep, **options)["changed"] is True
        assert act(fake, "deployment", **dep, **options)["changed"] is False
        assert [each["limit"] for each in fake.objects.of("limits") if each["name"] == "shared"] == [5]


def test_two_automations_of_a_name(fake: FakeApi) -> None:
    for _ in range(2):
        fake.objects.add("automations", name="a", trigger={"type": "event"}, actions=[])
    result = act(fake, "automation", name="a", enabled=False)
    assert "there are 2 automations named a" in result["msg"]


def test_two_controllers_make_an_automation(fake: FakeApi) -> None:
    wanted: Any = {"name": "a", "trigger": {"expect": ["x"]}, "actions": [{"type": "do-nothing"}]}

    def other(request: str) -> None:
        if request == "POST /automations/" and not fake.objects.of("automations"):
            fake.objects.add("automations", **fake_automation())

    def fake_automation() -> dict[str, Any]:
        trigger = {"type": "event", "posture": "Reactive", "expect": ["x"], "match": {}, "match_related": {}}
        return {"name": "a", "trigger": trigger, "actions": [{"type": "do-nothing"}]}

    fake.before = other
    assert not act(fake, "automation", **wanted).get("failed")
    assert len(fake.objects.of("automations")) == 1


def test_result_storage(fake: FakeApi) -> None:
    act(fake, "block", block_type="secret", name="word", data={"value": "x"})
    for storage in ("secret/word", ""):
        dry = act(fake, "server_settings", result_storage=storage, check_mode=True)
        real = act(fake, "server_settings", result_storage=storage)
        assert (dry["changed"], real["changed"], dry["diff"]) == (True, True, real["diff"])
        assert act(fake, "server_settings", result_storage=storage)["changed"] is False
    assert "there is no block secret/wort" in act(fake, "server_settings", result_storage="secret/wort")["msg"]
    assert "like type/name" in act(fake, "server_settings", result_storage="word")["msg"]


JUNK: list[Any] = [
    [],
    {},
    "",
    "x",
    "{{ x }}",
    -1,
    [1],
    [[]],
    [{}],
    {"a": {"b": []}},
    {"type": []},
    {"$ref": 1},
    [{"type": {}}],
    {"match": 1, "expect": {}},
]


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, about in matrix.KINDS.items() for name in about.fields]
)
def test_junk_is_refused_or_taken(fake: FakeApi, kind: str, name: str) -> None:
    """It never breaks: what is refused is refused in words."""
    key, least = matrix.BASE[kind]
    parts = matrix.KINDS[kind].parts(key)
    for junk in JUNK:
        result = outcome(MODULES[kind].main, api_url=fake.url, **{**parts, **least, name: junk})
        assert result.get("msg", "").strip() or not result.get("failed")
        listed = {f"prefect_{kind}s": [{**parts, **least, name: junk}]}
        result = outcome(resources.main, check_mode=True, api_url=fake.url, **listed)
        assert result.get("msg", "").strip() or not result.get("failed")
