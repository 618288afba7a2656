"""The summary of an API, whether it answers or not; and that every module's documentation is its specification."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.prefect.plugins.doc_fragments.api import ModuleDocFragment
from ansible_collections.selfhosted.prefect.plugins.module_utils.api import module as api_layer
from ansible_collections.selfhosted.prefect.plugins.modules import (
    automation,
    block,
    block_type,
    deployment,
    export,
    flow,
    flow_run,
    global_concurrency_limit,
    info,
    resources,
    server_settings,
    tag_concurrency_limit,
    variable,
    work_pool,
    work_queue,
)
from fake_api import SETTINGS, FakeApi, Fault, outcome


def look(fake: FakeApi, **options: Any) -> dict[str, Any]:
    result: dict[str, Any] = outcome(info.main, **{"api_url": fake.url, **options})
    return result


def test_summary(fake: FakeApi) -> None:
    fake.add_pool("b", is_paused=True, status="PAUSED")
    fake.add_pool("a", concurrency_limit=3, status="READY")
    fake.add_worker("a", "two", status="OFFLINE")
    fake.add_worker("a", "one")
    fake.add_deployment("hello", "default", pool="a")
    fake.add_run(kind="COMPLETED", name="Completed")
    fake.add_run(kind="COMPLETED", name="Cached")
    fake.add_run(name="Late")
    result = look(fake)
    heartbeat = {"last_heartbeat_time": "2026-11-21T01:00:00.000000Z"}
    assert {name: result[name] for name in info_keys(result)} == {
        "changed": False,
        "reachable": True,
        "ready": True,
        "api_url": fake.url,
        "ui_url": fake.root,
        "version": "3.8.8",
        "database": None,
        "work_pools": [
            {
                "name": "a",
                "type": "process",
                "status": "READY",
                "is_paused": False,
                "concurrency_limit": 3,
                "workers": [
                    {"name": "one", "status": "ONLINE", **heartbeat},
                    {"name": "two", "status": "OFFLINE", **heartbeat},
                ],
                "workers_online": 1,
            },
            {
                "name": "b",
                "type": "process",
                "status": "PAUSED",
                "is_paused": True,
                "concurrency_limit": None,
                "workers": [],
                "workers_online": 0,
            },
        ],
        "deployments": {"count": 1, "names": ["hello/default"]},
        "flow_runs": {"hours": 24.0, "late": 1, "states": {"COMPLETED": 2, "SCHEDULED": 1}},
        "resources": {},
    }
    assert fake.writes == []


def info_keys(result: dict[str, Any]) -> list[str]:
    """Return the keys that the module documents; AnsibleModule adds `invocation`."""
    return [name for name in result if name in {"changed", *yaml.load(info.RETURN, yaml.CSafeLoader)}]


def test_every_result_is_documented(fake: FakeApi) -> None:
    assert set(look(fake)) - {"changed", "invocation"} == set(yaml.load(info.RETURN, yaml.CSafeLoader)) - {"error"}


def test_nothing_listens(fake: FakeApi) -> None:
    result = look(fake, api_url="http://127.0.0.1:1/api")
    assert (result["reachable"], result["ready"]) == (False, False)
    assert "refused" in result["error"]
    assert "failed" not in result


def test_nothing_listens_where_something_should(fake: FakeApi) -> None:
    result = look(fake, api_url="http://127.0.0.1:1/api", required=True)
    assert result["failed"]
    assert "http://127.0.0.1:1/api" in result["msg"]


def test_a_server_without_its_database(fake: FakeApi) -> None:
    fake.ready = False
    result = look(fake)
    assert (result["reachable"], result["ready"]) == (True, False)
    assert fake.requests == ["GET /ready"]


def test_a_proxy_without_its_server(fake: FakeApi) -> None:
    fake.faults.append(Fault(status=503, body=b"<html>maintenance</html>"))
    assert look(fake)["reachable"] is False


def test_wrong_credentials_are_no_absence(fake: FakeApi) -> None:
    fake.auth = "admin:password"
    assert "set api_auth" in look(fake)["msg"]


@pytest.mark.parametrize(
    ("settings", "ui_url"),
    [
        ({"ui_url": "https://ui.example.org"}, "https://ui.example.org"),
        ({"server": {"ui": {"enabled": True, "serve_base": "/prefect/"}}}, "http://host:4200/prefect"),
        ({"server": {"ui": {"enabled": False}}}, None),
    ],
)
def test_ui_url(settings: dict[str, Any], ui_url: str | None) -> None:
    assert info.ui_url("http://host:4200/prefect/api", {**SETTINGS, **settings}) == ui_url


@pytest.mark.parametrize(
    ("driver", "database"), [("postgresql+asyncpg", "postgresql"), ("sqlite+aiosqlite", "sqlite"), (None, None)]
)
def test_database(driver: str | None, database: str | None) -> None:
    assert info.database({"server": {"database": {"driver": driver}}}) == database


MODULES = [
    automation,
    block,
    block_type,
    deployment,
    export,
    flow,
    flow_run,
    global_concurrency_limit,
    info,
    resources,
    server_settings,
    tag_concurrency_limit,
    variable,
    work_pool,
    work_queue,
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.__name__).split(".")[-1])
def test_the_documentation_is_the_specification(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, Any] = {}

    class Stop(Exception):
        pass

    def record(**options: Any) -> None:
        taken.update(options["argument_spec"])
        raise Stop

    monkeypatch.setattr(api_layer, "AnsibleModule", record)
    with pytest.raises(Stop):
        module.main()
    documented = {
        **yaml.load(ModuleDocFragment.DOCUMENTATION, yaml.CSafeLoader)["options"],
        **yaml.load(module.DOCUMENTATION, yaml.CSafeLoader)["options"],
    }
    assert facets(taken, "options") == facets(documented, "suboptions")


def facets(specs: dict[str, Any], inner: str) -> dict[str, Any]:
    """Return what a specification and its documentation have in common."""
    names = ("type", "elements", "choices", "default", "required")
    return {
        name: {**{facet: spec.get(facet) for facet in names}, "options": facets(spec.get(inner) or {}, inner)}
        for name, spec in specs.items()
    }


def test_the_documented_fields_of_resources_are_those_of_the_modules() -> None:
    documented = yaml.load(resources.DOCUMENTATION, yaml.CSafeLoader)["options"]
    assert {name for name in documented if name.startswith("prefect_")} == set(resources.LISTS)


def test_resources_in_full(fake: FakeApi) -> None:
    fake.add_deployment("hello", "default", pool="a")
    fake.objects.add("variables", name="shop", value={"a": 1}, tags=[])
    fake.objects.add("variables", name="ansible_owner_ansible_0", value={}, tags=[])
    kind = fake.objects.first("block_types", slug="secret")
    schema = fake.objects.of("block_schemas")[0]
    assert kind
    fields = {"data": {"value": "hush"}, "block_type_id": kind["id"], "block_schema_id": schema["id"]}
    fake.objects.add("block_documents", name="word", **fields)
    found = look(fake, resources=["variable", "deployment", "block"])["resources"]
    assert found["prefect_variables"] == [{"name": "shop", "value": {"a": 1}, "tags": []}]
    assert found["prefect_blocks"] == [{"block_type": "secret", "name": "word", "data": {"value": "********"}}]
    assert [(each["flow"], each["name"]) for each in found["prefect_deployments"]] == [("hello", "default")]
