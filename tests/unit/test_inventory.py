"""What an inventory describes of the inside of Prefect: on several levels, in several words, and whose it is."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleError, AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.selfhosted.prefect.plugins.action.validate import unknown_variables
from ansible_collections.selfhosted.prefect.plugins.filter.resources import (
    answers,
    entrypoints,
    nothing,
    plan_text,
    resources,
    unapplied,
    with_parameters,
)
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.inventory import merged

Variables = dict[str, Any]


def described(variables: Variables, **base: list[Any]) -> dict[str, list[Any]]:
    return merged(variables, variables.__getitem__, base)


def test_a_list_that_no_variable_has_is_not_there() -> None:
    assert described({"prefect_variables": [], "prefect_version": "3.8.8", "prefect_variablesx": [1]}) == {
        "prefect_variables": []
    }


def test_levels_add_to_each_other_and_the_later_one_wins() -> None:
    variables = {
        "prefect_variables__b": [{"name": "one", "value": 3}, {"name": "three", "value": 3}],
        "prefect_variables": [{"name": "one", "value": 1, "tags": ["x"]}, {"name": "two", "value": 2}],
        "prefect_variables__a": [{"name": "one", "value": 2}, {"name": "two", "state": "absent"}],
    }
    assert described(variables) == {
        "prefect_variables": [
            {"name": "one", "value": 3, "tags": ["x"]},
            {"name": "two", "value": 2, "state": "absent"},
            {"name": "three", "value": 3},
        ]
    }


@pytest.mark.parametrize(
    ("name", "lower", "upper", "both"),
    [
        (
            "prefect_deployments",
            {
                "flow_name": "f",
                "name": "d",
                "work_pool_name": "p",
                "schedule_type": "cron",
                "schedule_config": {"cron_string": "0 1 * * *"},
                "is_active": False,
            },
            {"flow": "f", "name": "d", "schedules": [], "paused": False},
            {"flow": "f", "name": "d", "work_pool_name": "p", "schedules": [], "paused": False},
        ),
        (
            "prefect_deployments",
            {"flow": "f", "name": "d", "schedules": [{"interval": 60}]},
            {"flow": "f", "name": "d", "schedule_config": {"cron_string": "0 2 * * *"}},
            {"flow": "f", "name": "d", "schedule_config": {"cron_string": "0 2 * * *"}},
        ),
        (
            "prefect_work_pools",
            {"name": "p", "pool_type": "process", "config": {"base_job_template": {}, "concurrency_limit": 1}},
            {"name": "p", "type": "docker", "concurrency_limit": 2},
            {
                "name": "p",
                "type": "docker",
                "config": {"base_job_template": {}, "concurrency_limit": 1},
                "concurrency_limit": 2,
            },
        ),
        (
            "prefect_blocks",
            {"block_type_slug": "secret", "name": "s", "data": {"value": 1}},
            {"block_type": "secret", "name": "s", "data": {"value": 2}},
            {"block_type": "secret", "name": "s", "data": {"value": 2}},
        ),
        (
            "prefect_tasks",
            {"flow_name": "f", "name": "t", "command": "x", "timeout_seconds": 3},
            {"flow_name": "f", "name": "t", "timeout_seconds": 5},
            {"flow_name": "f", "name": "t", "command": "x", "timeout_seconds": 5},
        ),
    ],
)
def test_a_level_may_use_other_words(name: str, lower: Variables, upper: Variables, both: Variables) -> None:
    assert described({name: [lower], f"{name}__prod": [upper]}) == {name: [both]}


def test_the_base_is_below_everything() -> None:
    base = [{"flow": "f", "name": "d", "entrypoint": "f.py:f", "version": "1"}]
    assert described(
        {"prefect_deployments": [{"flow": "f", "name": "d", "version": "2"}]}, prefect_deployments=base
    ) == {"prefect_deployments": [{"flow": "f", "name": "d", "entrypoint": "f.py:f", "version": "2"}]}


def test_what_is_twice_in_one_list_stays_a_mistake() -> None:
    twice = [{"name": "a", "value": 1}, {"name": "a", "value": 2}]
    assert described({"prefect_variables": twice}) == {"prefect_variables": twice}
    both = described({"prefect_variables": twice[:1], "prefect_variables__x": twice})
    assert both == {"prefect_variables": [twice[0], twice[1]]}


def test_what_cannot_be_told_apart_is_left_to_the_module() -> None:
    entries = ["junk", {"value": 1}, {"name": None}]
    assert described({"prefect_variables": entries, "prefect_variables__x": entries}) == {
        "prefect_variables": entries * 2
    }


@pytest.mark.parametrize("value", ["text", {"name": "a"}, 3])
def test_what_is_no_list_is_refused(value: object) -> None:
    with pytest.raises(AnsibleError, match="prefect_blocks__prod is not a list"):
        described({"prefect_blocks__prod": value})


def test_templates_are_filled_in() -> None:
    variables = {
        "region": "eu",
        "prefect_variables": [{"name": "region", "value": trust_as_template("{{ region }}")}],
        "prefect_variables__x": trust_as_template("{{ [{'name': 'b', 'value': region}] }}"),
    }
    templar = Templar(loader=DataLoader(), variables=variables)
    assert merged(variables, lambda name: templar.template(variables[name]), {}) == {
        "prefect_variables": [{"name": "region", "value": "eu"}, {"name": "b", "value": "eu"}]
    }


def test_names_with_a_suffix_are_known_and_misspelt_ones_are_told() -> None:
    known: dict[str, Variables] = {"prefect_flows": {"prefect_flows_dir": {}}}
    assert unknown_variables(["prefect_flows__prod", "prefect_flows", "prefect_work_queues__a_b"], known) == []
    (problem,) = unknown_variables(["prefect_deploymnets"], known)
    assert "did you mean prefect_deployments?" in problem


DATA: Variables = {
    "prefect_tasks": [{"flow_name": "data", "name": "t", "command": "x"}],
    "prefect_flows": [{"name": "data"}, {"name": "code", "tags": ["x"]}],
    "prefect_deployments": [{"flow_name": "data", "name": "d"}, {"flow": "code", "name": "d"}],
    "prefect_work_pools": [{"name": "p"}],
}


def test_flows_as_data_are_not_for_the_module_resources() -> None:
    assert resources(DATA, ["host"], []) == {
        "prefect_work_pools": [{"name": "p"}],
        "prefect_flows": [{"name": "code", "tags": ["x"]}],
        "prefect_deployments": [{"flow": "code", "name": "d"}],
    }
    assert resources(DATA, ["host"], ["work_pool", "variable"]) == {"prefect_work_pools": [{"name": "p"}]}


def test_flows_of_runners_are_data() -> None:
    lists: dict[str, list[Any]] = {
        "prefect_runners": [{"id": "ticket", "use": "tickets:run"}],
        "prefect_flows": [{"name": "code"}],
        "prefect_deployments": [{"flow_name": "ticket", "name": "nightly"}, {"flow_name": "code", "name": "daily"}],
    }
    assert resources(lists, ["host"], []) == {
        "prefect_flows": [{"name": "code"}],
        "prefect_deployments": [{"flow_name": "code", "name": "daily"}],
    }


def test_data_that_no_host_runs_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="prefect_definitions"):
        resources(DATA, [], [])


def test_without_tasks_every_flow_is_code() -> None:
    lists: dict[str, list[Any]] = {
        "prefect_flows": [{"name": "a"}],
        "prefect_deployments": ["junk", {"flow_name": "a", "name": "d"}],
    }
    assert resources(lists, [], []) == lists


def test_kinds() -> None:
    assert nothing(["variable"]) == {"prefect_variables": []}
    assert len(nothing([])) == 10
    with pytest.raises(AnsibleFilterError, match="prefect_resources_kinds: variables"):
        nothing(["variables"])


@pytest.mark.parametrize(
    ("host", "check_mode", "expected"),
    [
        (None, True, True),
        ({"service_manager": "systemd", "release_present": False}, True, False),
        ({"service_manager": "systemd", "release_present": False}, False, True),
        ({"service_manager": "systemd", "release_present": True}, True, True),
        ({"service_manager": "none", "release_present": True}, False, False),
    ],
)
def test_a_server_answers(host: Variables | None, check_mode: bool, expected: bool) -> None:
    hostvars = {"one": {"__prefect_host": host} if host else {}}
    assert answers(["one", "two"], hostvars, check_mode) is expected


def test_the_plan_ends_with_its_sum() -> None:
    counts = {"create": 1, "update": 0, "recreate": 0, "delete": 2, "unchanged": 3, "adopted": 0}
    assert plan_text({"plan": ["+ a", "- b", "- c"], "summary": counts}) == (
        "+ a\n- b\n- c\n1 new, 2 gone, 3 as described"
    )
    assert plan_text({"plan": [], "summary": dict.fromkeys(counts, 0)}) == "0 as described"


@pytest.mark.parametrize(
    ("groups", "variables", "found"),
    [
        ({"prefect_worker": ["one"]}, {"prefect_variables": [{"name": "a", "value": 1}]}, ["prefect_variables"]),
        ({"prefect_worker": ["one"]}, {"prefect_blocks__prod": [{"name": "a"}]}, ["prefect_blocks"]),
        ({"prefect_worker": ["one"]}, {"prefect_resources_projects": ["p"]}, ["prefect_resources_projects"]),
        ({"prefect_worker": ["one"]}, {"prefect_variables": [], "prefect_version": "3.9.1"}, []),
        ({"prefect_server": ["one"]}, {"prefect_variables": [{"name": "a", "value": 1}]}, []),
        ({"prefect_resources": ["one"]}, {"prefect_variables": [{"name": "a", "value": 1}]}, []),
        ({"prefect_resources": []}, {"prefect_variables": [{"name": "a", "value": 1}]}, ["prefect_variables"]),
        ({"prefect_definitions": ["one"]}, {"prefect_runners": [{"id": "a", "pipe": {"use": "x"}}]}, []),
    ],
)
def test_what_no_host_applies(groups: dict[str, list[str]], variables: Variables, found: list[str]) -> None:
    assert unapplied({"other": {}, "one": variables}, {"all": ["other", "one"], **groups}) == found


FLOWS = "/var/lib/prefect/flows"
STEP = "prefect.deployments.steps.set_working_directory"


@pytest.mark.parametrize(
    ("deployment", "below"),
    [
        ({}, "."),
        ({"path": FLOWS}, "."),
        ({"path": f"{FLOWS}/shop"}, "shop"),
        ({"path": "shop"}, "shop"),
        ({"pull_steps": [{STEP: {"directory": f"{FLOWS}/shop"}}]}, "shop"),
        ({"path": "/srv/other"}, None),
        ({"path": f"{FLOWS}/../other"}, None),
        ({"pull_steps": [{"prefect.deployments.steps.git_clone": {"repository": "x"}}]}, None),
        ({"pull_steps": [{STEP: {"directory": FLOWS}}, {"x.y": {}}]}, None),
        ({"parameter_openapi_schema": {}}, None),
        ({"state": "absent"}, None),
        ({"entrypoint": None}, None),
    ],
)
def test_code_whose_parameters_are_read(deployment: Variables, below: str | None) -> None:
    entry = {"flow_name": "f", "name": "d", "entrypoint": "f.py:f", **deployment}
    found = entrypoints({"one": {"prefect_deployments": [entry], "x": 1}}, ["one"], FLOWS)
    assert found == ({} if below is None else {"f/d": {"directory": below, "entrypoint": "f.py:f"}})


def test_parameters_are_those_of_the_first_host_that_has_the_code() -> None:
    one: Any = {"properties": {"a": {}}}
    two: Any = {"properties": {"b": {}}}
    read: Any = {
        host: {"__prefect_flows_parameters": said}
        for host, said in (("0", {"skipped": True}), ("1", {"schemas": {"f/d": one}}), ("2", {"schemas": {"f/d": two}}))
    }
    daily, other = {"flow": "f", "name": "d"}, {"flow": "f", "name": "e"}
    given: Any = {"prefect_deployments": [daily, other], "prefect_flows": []}
    after = with_parameters(given, read, ["0", "1", "2"])
    assert after == {**given, "prefect_deployments": [{**daily, "parameter_openapi_schema": one}, other]}
    own: Any = {"prefect_deployments": [{**daily, "parameter_openapi_schema": {}}]}
    assert with_parameters(own, read, ["1"]) == own
