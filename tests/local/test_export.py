"""What is inside Prefect, written down: short, without secrets, and good for making all of it again."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.selfhosted.prefect.plugins.filter.export import inventory_yaml
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.export import reference_name
from ansible_collections.selfhosted.prefect.plugins.modules import export, resources
from fake_api import FakeApi, outcome
from test_resources import ALL, NOTHING, act

MORE: dict[str, list[dict[str, Any]]] = {
    **ALL,
    "prefect_variables": [
        {"name": "shop", "value": {"template": "{{ not_a_variable }} {% raw %}"}, "tags": ["x"]},
        {"name": "text", "value": "two\nlines of {# this #}"},
        {"name": "off", "value": False},
        {"name": "empty", "value": {}},
        {"name": "number", "value": "0x10"},
    ],
    "prefect_work_queues": [*ALL["prefect_work_queues"], {"work_pool": "main", "name": "default", "is_paused": True}],
}


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


def test_an_export_restores_an_empty_server(fake: FakeApi, tmp_path: Path) -> None:
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
    assert reference_name("a/b-c/d", {}) == "vault_a_b_c_d"
    assert reference_name("a/b/c/d", {"vault_a_b_c_d"}) == "vault_a_b_c_d_2"


TEMPLATES = (
    "{{ vault_secret_word_value }}",
    "{{ vault_account_shop_password }}",
    " {{ lookup('pipe', 'id') }}",
    "{% set x = 1 %}",
    "{# x #}",
    "#jinja2:variable_start_string:'[['\n[[ vault_secret_word_value ]]",
    "two\nlines {{ vault_secret_word_value }}",
    "7",
    "true",
    "null",
    "!vault x",
    "2026-01-01",
    "\u2028 {{ vault_secret_word_value }}",
)
"""What a user of the UI may write into anything."""


def test_what_comes_from_the_server_is_never_a_template(fake: FakeApi, tmp_path: Path) -> None:
    """Where a text of the server's looks like a reference to a secret, it would publish that secret."""
    values = [{text: text, "list": [text, {text: [text]}]} for text in TEMPLATES]
    planted: dict[str, list[dict[str, Any]]] = {
        **ALL,
        "prefect_block_types": [*ALL["prefect_block_types"], {"slug": "open", "schema": {"properties": {"host": {}}}}],
        "prefect_blocks": [
            *ALL["prefect_blocks"],
            *(
                {"block_type": "open", "name": f"b{index}", "data": {"host": text, "type": {text: {"host": text}}}}
                for index, text in enumerate(TEMPLATES)
            ),
        ],
        "prefect_variables": [{"name": f"v{index}", "value": value} for index, value in enumerate(values)],
        "prefect_work_pools": [
            {
                "name": "main",
                "description": TEMPLATES[0],
                "base_job_template": {
                    "job_configuration": {"x": "{{ y }}"},
                    "variables": {"properties": {"y": {"default": TEMPLATES[0]}}},
                },
            },
        ],
        "prefect_deployments": [
            {
                **ALL["prefect_deployments"][0],
                "description": text,
                "tags": [text],
                "parameters": {"x": text, text: text},
                "job_variables": {"env": {"X": text, text: text}, "command": text},
                "pull_steps": [{text: {text: text}}],
                "name": f"d{index}",
            }
            for index, text in enumerate(TEMPLATES)
        ],
    }
    planted["prefect_automations"] = [
        {"name": text, "description": text, "trigger": {"expect": [text]}, "actions": [{"type": "do-nothing"}]}
        for text in TEMPLATES
    ]
    result = act(fake, planted)
    assert "msg" not in result, result.get("msg")
    found = exported(fake)
    secrets = {"vault_account_shop_password": "hush-hush", "vault_secret_word_value": "hush-quiet"}
    given: dict[str, Any] = dict(secrets)
    assert set(secrets) <= set(found["variables"])
    for name, place in found["references"].items():
        if name not in secrets:
            at: Any = exported(fake, secrets="clear")["resources"]
            for key in place:
                at = at[key]
            given[name] = at
    text = inventory_yaml(found)
    again = loaded(text, tmp_path / "file.yml", **given)
    clear = loaded(inventory_yaml(exported(fake, secrets="clear")), tmp_path / "clear.yml", **secrets)
    for lists in (again, clear):
        assert lists == exported(fake, secrets="clear")["resources"]
        result = act(fake, {}, lists=lists)
        assert (result["changed"], result["plan"]) == (False, [])


def test_a_name_cannot_add_lines_to_the_file(fake: FakeApi) -> None:
    act(fake, ALL)
    found = {
        "resources": {},
        "variables": {"vault_a": "secret/a/x\nprefect_variables: '{{ vault_b }}'"},
        "references": {"vault_a": ["prefect_blocks", 0, "data", "x\n"]},
    }
    assert all(line.startswith("#") for line in inventory_yaml(found).splitlines()[1:])


def test_secrets_of_every_kind_become_variables(fake: FakeApi, tmp_path: Path) -> None:
    url = "https://hooks.slack.com/services/T0/B0/x"
    wanted: dict[str, list[dict[str, Any]]] = {
        **ALL,
        "prefect_variables": [{"name": "api_token", "value": "hush-1"}, {"name": "url", "value": url}],
        "prefect_deployments": [
            {
                **ALL["prefect_deployments"][0],
                "job_variables": {"env": {"DB_PASSWORD": "hush-2", "LEVEL": "INFO"}},
                "pull_steps": [{"git_clone": {"repository": "https://hush-3@example.com/x.git", "branch": "main"}}],
                "parameters": {"credentials": {"user": "hush-4"}, "day": "today"},
            },
            ALL["prefect_deployments"][1],
        ],
    }
    result = act(fake, wanted)
    assert "msg" not in result, result.get("msg")
    found = exported(fake)
    text = json.dumps(found["resources"]) + inventory_yaml(found)
    assert "hush" not in text and "hooks.slack" not in text
    for shown in ("INFO", "main", "today"):
        assert shown in text
    clear = exported(fake, secrets="clear")["resources"]
    values = {}
    for name, place in found["references"].items():
        at: Any = clear
        for key in place:
            at = at[key]
        values[name] = at
    result = act(fake, {}, lists=loaded(inventory_yaml(found), tmp_path / "file.yml", **values))
    assert (result["changed"], result["plan"]) == (False, [])
    omitted = exported(fake, secrets="omitted")
    assert "hush" not in json.dumps(omitted) and omitted["references"] == {}
    assert not act(fake, {}, lists=omitted["resources"])["changed"]


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
