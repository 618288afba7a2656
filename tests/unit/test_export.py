"""What is inside Prefect, written down: short, without secrets, and good for making all of it again."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.selfhosted.prefect.plugins.filter.export import inventory_yaml
from ansible_collections.selfhosted.prefect.plugins.module_utils.export import reference
from ansible_collections.selfhosted.prefect.plugins.modules import export, resources
from fake_api import FakeApi, outcome
from test_resources import ALL, NOTHING, act

MORE: dict[str, list[dict[str, Any]]] = {
    **ALL,
    "prefect_variables": [
        {"name": "shop", "value": {"template": "{{ not ours }} {% raw %}"}, "tags": ["x"]},
        {"name": "text", "value": "two\nlines of {# this #}"},
        {"name": "off", "value": False},
        {"name": "empty", "value": {}},
        {"name": "number", "value": "0x10"},
    ],
    "prefect_work_queues": [*ALL["prefect_work_queues"], {"work_pool": "main", "name": "default", "is_paused": True}],
}


@pytest.fixture
def fake() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api


def exported(fake: FakeApi, **options: Any) -> dict[str, Any]:
    result: dict[str, Any] = outcome(export.main, api_url=fake.url, **options)
    return result


def loaded(text: str, path: Path, **variables: Any) -> dict[str, Any]:
    """Return a file of variables as a play has them."""
    path.write_text(text)
    known = {**DataLoader().load_from_file(str(path), trusted_as_template=True), **variables}
    templar = Templar(loader=DataLoader(), variables=known)
    return {name: templar.template(value) for name, value in known.items() if name not in variables}


def test_applied_to_the_same_server_nothing_changes(fake: FakeApi, tmp_path: Path) -> None:
    act(fake, MORE)
    found = exported(fake)
    assert "hush" not in json.dumps(found)
    assert found["variables"] == {
        "vault_account_shop_password": "account/shop/password",
        "vault_secret_word_value": "secret/word/value",
    }
    text = inventory_yaml(found)
    again = loaded(
        text, tmp_path / "file.yml", vault_account_shop_password="hush-hush", vault_secret_word_value="hush-quiet"
    )
    result = act(fake, {}, lists=again)
    assert (result["changed"], result["plan"]) == (False, [])
    assert result["summary"]["unchanged"] == sum(map(len, found["resources"].values()))


def test_applied_to_an_empty_server_everything_is_there_again(fake: FakeApi, tmp_path: Path) -> None:
    act(fake, MORE)
    clear = exported(fake, secrets="clear")
    assert clear["variables"] == {}
    with FakeApi() as other:
        lists = loaded(inventory_yaml(clear), tmp_path / "file.yml")
        assert act(other, {}, lists=lists)["changed"]
        assert exported(other, secrets="clear")["resources"] == clear["resources"]
        assert not act(other, {}, lists=lists)["changed"]


def test_secrets_may_be_left_out(fake: FakeApi) -> None:
    act(fake, ALL)
    found = exported(fake, secrets="omitted")
    assert "hush" not in json.dumps(found) and "vault" not in json.dumps(found)
    assert not act(fake, {}, lists=found["resources"])["changed"]
    with FakeApi() as other:
        assert "data.value is missing" in act(other, {}, lists=found["resources"])["msg"]


def test_it_is_short(fake: FakeApi) -> None:
    act(fake, ALL)
    found = exported(fake, kinds=["deployment", "automation", "work_queue", "flow"])["resources"]
    anchor = found["prefect_deployments"][1]["schedules"][1].pop("anchor_date")
    assert anchor
    assert found == {
        "prefect_flows": [{"name": "stock", "tags": ["shop"]}],
        "prefect_work_queues": [
            {"work_pool": "main", "name": "slow", "priority": 3},
            {"work_pool": "main", "name": "urgent", "priority": 1},
        ],
        "prefect_deployments": [
            {"flow": "report", "name": "daily", "work_pool": "main", "concurrency_limit": 1},
            {
                "flow": "stock",
                "name": "daily",
                "work_pool": "main",
                "work_queue": "urgent",
                "global_concurrency_limit": "database",
                "schedules": [{"cron": "0 6 * * *"}, {"interval": 60.0, "max_scheduled_runs": 3, "slug": "often"}],
            },
        ],
        "prefect_automations": [
            {"name": "Other", "trigger": {"expect": ["y"]}, "actions": [{"type": "do-nothing"}]},
            {
                "name": "Tell",
                "trigger": {"expect": ["x"], "match": {"prefect.resource.id": "prefect.flow.report"}},
                "actions": [
                    {"type": "send-notification", "block": "secret/word", "body": "x"},
                    {"type": "run-deployment", "deployment": "stock/daily"},
                    {"type": "pause-automation", "automation": "Other"},
                ],
            },
        ],
    }


def test_what_belongs_to_prefect_is_left_out(fake: FakeApi) -> None:
    assert exported(fake)["resources"] == {}
    act(fake, ALL)
    act(fake, NOTHING, prune=True)
    assert exported(fake)["resources"] == {}


def test_references_do_not_collide() -> None:
    variables: dict[str, str] = {}
    assert reference("a/b-c/d", variables) == "{{ vault_a_b_c_d }}"
    assert reference("a/b/c/d", variables) == "{{ vault_a_b_c_d_2 }}"
    assert variables == {"vault_a_b_c_d": "a/b-c/d", "vault_a_b_c_d_2": "a/b/c/d"}


def test_a_file_is_for_people() -> None:
    found = {
        "resources": {"prefect_variables": [{"name": "a", "value": "{{ x }}", "tags": ["b", "c"]}]},
        "variables": {"vault_a": "secret/a/value"},
    }
    assert inventory_yaml(found) == (
        "---\n"
        "# Everything inside Prefect, by selfhosted.prefect.export.\n"
        "# Define these elsewhere, encrypted with Ansible Vault for example:\n"
        "#   vault_a: secret/a/value\n"
        "prefect_variables:\n"
        "  - name: a\n"
        "    value: !unsafe '{{ x }}'\n"
        "    tags: [b, c]\n"
    )


def test_resources_takes_what_it_returns(fake: FakeApi) -> None:
    act(fake, ALL)
    result = outcome(
        resources.main, api_url=fake.url, lists=copy.deepcopy(exported(fake, secrets="clear")["resources"])
    )
    assert not result["changed"]
