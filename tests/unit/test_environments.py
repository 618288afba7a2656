"""Environments of deployments, out of what an inventory says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from all_kinds import Wanted, act
from ansible.errors import AnsibleUndefinedVariable
from ansible_collections.selfhosted.prefect.plugins.filter.environments import (
    environment_errors,
    environment_releases,
    environments_dir,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.kinds.deployments import (
    environment_of,
    with_environment,
)
from ansible_collections.selfhosted.prefect.plugins.modules import export
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.environment_resolver import problems_of
from fake_api import FakeApi, outcome

ETL = {"name": "etl", "requirements": ["pandas==2.3.*"], "python": "3.12"}
LEGACY = {"name": "legacy", "requirements_file": "requirements/legacy.txt"}
STOCK = {"flow": "stock", "name": "daily", "work_pool": "default", "environment": "etl"}
GROUPS = {"prefect_server": ["one"], "prefect_worker": ["two", "three"]}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, []),
        ({"requirements": ["a", "b[x,y]>=1,<2 ; python_version < '4'", "c~=1.0", "d != 1"]}, []),
        ({"python": "3.10"}, []),
        ({"python": "/opt/python/bin/python3"}, []),
        ({"name": "e t l"}, ["prefect_environments: 'e t l' is no name for an environment"]),
        ({"name": "../etl"}, ["prefect_environments: '../etl' is no name for an environment"]),
        ({"name": ""}, ["prefect_environments: '' is no name for an environment"]),
        ({"name": "a" * 51}, ["is no name for an environment"]),
        ({"python": "3.1"}, ["prefect_environments (etl): Python 3.1 is too old, or is 3.10 without quotes"]),
        ({"python": "three"}, ["prefect_environments (etl): python is 'three'; give two numbers"]),
        ({"python": "3.12.1"}, ["prefect_environments (etl): python is '3.12.1'; give two numbers"]),
        *(
            ({"requirements": [text]}, [f"prefect_environments (etl): '{text}' is not a package of the index"])
            for text in ("./own", "own @ git+https://example.com/own", "-e .", "--index-url=x", "a b", "")
        ),
    ],
)
def test_an_entry(entry: dict[str, Any], said: list[str]) -> None:
    found = list(problems_of([ETL | entry]))
    assert len(found) == len(said)
    assert all(text in line for text, line in zip(said, found, strict=True))


def test_a_credential_is_not_repeated() -> None:
    (found,) = problems_of([ETL | {"requirements": ["own @ https://ada:hush@example.com/own"]}])
    assert "hush" not in found


def test_a_name_is_given_once() -> None:
    assert list(problems_of([ETL, LEGACY, {**LEGACY, "name": "etl"}])) == [
        "prefect_environments: etl is the name of 2 environments; give each its own"
    ]


def hosts(*, two: list[Any], three: list[Any], deployments: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "one": {"prefect_deployments": deployments},
        "two": {"prefect_environments": two, **more},
        "three": {"prefect_environments": three, "prefect_worker_instances": [{"pool": "fast"}]},
    }


@pytest.mark.parametrize(
    ("two", "three", "deployment", "said"),
    [
        ([ETL], [ETL], {}, []),
        ([ETL], [], {}, []),
        ([ETL], [], {"environment": None}, []),
        ([ETL], [], {"environment": "nosuch", "state": "absent"}, []),
        (
            [ETL, LEGACY],
            [ETL],
            {"environment": "elt"},
            [
                "prefect_deployments: stock/daily names the environment elt, which prefect_environments does not have; "
                "did you mean etl?"
            ],
        ),
        (
            [ETL, LEGACY],
            [ETL],
            {"environment": "nosuch"},
            [
                "prefect_deployments: stock/daily names the environment nosuch, which prefect_environments does not "
                "have; there are: etl, legacy"
            ],
        ),
        (
            [],
            [],
            {},
            [
                "prefect_deployments: stock/daily names the environment etl, which prefect_environments does not have; "
                "there are: none"
            ],
        ),
        (
            [ETL],
            [],
            {"work_pool": "fast"},
            [
                "prefect_deployments: stock/daily names the environment etl, and three, where workers of its work pool "
                "fast run, does not have it; add it to prefect_environments there"
            ],
        ),
        (
            [ETL],
            [],
            {"job_variables": {"command": "uv run x"}},
            ["prefect_deployments: stock/daily has an environment and job_variables.command; leave one of them out"],
        ),
        (
            [ETL],
            [ETL | {"python": "3.13"}],
            {},
            [
                "prefect_environments: etl is not the same on two and three, and it has one lock; give the two "
                "different names"
            ],
        ),
    ],
)
def test_what_deployments_name(two: list[Any], three: list[Any], deployment: dict[str, Any], said: list[str]) -> None:
    known = hosts(two=two, three=three, deployments=[STOCK | deployment])
    assert environment_errors(known, GROUPS) == said


@pytest.mark.parametrize("wrong", ["etl", {"name": "etl"}, ["etl"], None])
def test_a_value_of_another_type_is_left_to_the_argument_specs(wrong: Any) -> None:
    assert environment_errors(hosts(two=wrong, three=[], deployments=[]), GROUPS) == []


def test_of_another_inventory_nothing_is_known() -> None:
    known = hosts(two=[], three=[], deployments=[STOCK])
    assert environment_errors(known, {"prefect_server": ["one"]}) == []


def test_a_variable_of_a_role_is_left_to_the_role() -> None:
    class Templated(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            raise AnsibleUndefinedVariable(name)

    assert environment_errors({"two": Templated()}, {"prefect_worker": ["two"]}) == []


def test_a_release_is_named_by_what_is_in_it() -> None:
    first = environment_releases([ETL, LEGACY], {"etl": "a==1", "legacy": "b==1"}, "3.8.8")
    assert [about["python"] for about in first.values()] == ["3.12", ""]
    again = environment_releases([LEGACY, ETL], {"etl": "a==1", "legacy": "b==1"}, "3.8.8")
    assert again == first
    other = environment_releases([ETL], {"etl": "a==2"}, "3.8.8")
    assert other["etl"]["release"] != first["etl"]["release"]
    assert all(about["release"].startswith("3.8.8-") for about in first.values())
    # Where a host is only read, no lock was made.
    assert environment_releases([ETL], {}, "3.8.8") == {}


@pytest.mark.parametrize(
    ("variables", "directory"),
    [
        ({"inventory_dir": "/srv/inventory"}, "/srv/inventory/environments"),
        ({}, "/data/selfhosted.prefect/one/environments"),
    ],
)
def test_the_locks_are_beside_the_inventory(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, Any], directory: str
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert environments_dir("two", {"one": variables, "two": {}}, ["one"]) == directory


@pytest.mark.parametrize(
    ("job_variables", "environment", "others"),
    [
        (None, None, {}),
        ({"command": "prefect-environment etl", "env": {}}, "etl", {"env": {}}),
        ({"command": "prefect-environment etl -m other"}, None, {"command": "prefect-environment etl -m other"}),
        ({"command": "uv run x"}, None, {"command": "uv run x"}),
    ],
)
def test_an_environment_is_a_command(job_variables: Any, environment: str | None, others: Any) -> None:
    assert environment_of(job_variables) == (environment, others)
    assert with_environment(others, environment) == (job_variables or {})


def test_a_deployment_in_an_environment(fake: FakeApi) -> None:
    """Dry, for real and again; changed, exported, and refused with what it excludes."""
    pools = {"prefect_work_pools": [{"name": "default", "type": "process"}, {"name": "boxes", "type": "docker"}]}

    def apply(check_mode: bool = False, **fields: Any) -> dict[str, Any]:
        wanted: Wanted = {**pools, "prefect_deployments": [STOCK | fields]}
        result: dict[str, Any] = act(fake, wanted, check_mode=check_mode)
        return result

    def variables() -> Any:
        (row,) = fake.deployments.values()
        return row["job_variables"]

    dry = apply(check_mode=True)
    assert apply()["plan"] == dry["plan"]
    assert variables() == {"command": "prefect-environment etl"}
    assert not apply()["changed"]
    assert not apply(environment=None)["changed"]
    assert apply(job_variables={"env": {"A": "b"}})["changed"]
    assert variables() == {"command": "prefect-environment etl", "env": {"A": "b"}}
    assert "environment" in " ".join(apply(environment="legacy")["plan"])
    assert variables() == {"command": "prefect-environment legacy", "env": {"A": "b"}}
    (written,) = outcome(export.main, api_url=fake.url, kinds=["deployment"])["resources"]["prefect_deployments"]
    assert (written["environment"], written["job_variables"]) == ("legacy", {"env": {"A": "b"}})
    assert apply(environment="")["changed"]
    assert variables() == {"env": {"A": "b"}}

    both = apply(job_variables={"command": "uv run x"})
    assert "environment and job_variables.command exclude each other" in both["msg"]
    assert "environment is 'e t l': the name of an entry of prefect_environments" in apply(environment="e t l")["msg"]
    assert (
        "environment is for work pools of type process, and boxes is of type docker" in apply(work_pool="boxes")["msg"]
    )


def test_the_command_is_a_program_on_the_path_of_workers() -> None:
    root = Path(__file__).resolve().parents[2]
    assert (root / "templates/opt/prefect/bin" / f"{with_environment({}, 'etl')['command'].split()[0]}.j2").is_file()
