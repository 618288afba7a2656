"""Definitions on their way from an inventory, a file or a database to a host."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.selfhosted.prefect.plugins.action.host_definitions import read
from ansible_collections.selfhosted.prefect.plugins.filter.definitions import definitions as of_inventory
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.client import Api
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.masking import Mask, masked_diff
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.reconcile import reconcile
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.wishes import Wish
from ansible_collections.selfhosted.prefect.plugins.modules import host_definitions as definitions
from fake_api import FakeApi, outcome
from prefect_definitions import sources
from prefect_definitions.resources import resources
from prefect_definitions.schema import Definitions, rows_of

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "roles/prefect_definitions/files/definitions"

RUNNERS = {
    "prefect_runners": [{"id": "tickets", "use": "shop:Process", "with": {"queue": "q"}, "interval_seconds": 300}]
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = Path(shutil.copytree(SHIPPED, tmp_path / "definitions", ignore=shutil.ignore_patterns("__pycache__")))
    (made / "shop.py").write_text(
        "class Process:\n    def __init__(self, queue): print('made')\n    def run(self): pass\n"
    )
    return made


def put(place: Path, data: dict[str, Any], *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = outcome(
        definitions.main,
        check_mode=check_mode,
        directory=str(place),
        data=json.dumps(data),
        python=sys.executable,
        **options,
    )
    answer.pop("invocation", None)
    return answer


def test_dry_for_real_and_again(place: Path) -> None:
    dry = put(place, RUNNERS, check_mode=True)
    assert not (place / "definitions.json").exists()
    assert put(place, RUNNERS) == dry
    assert dry["changed"]
    assert json.loads(dry["diff"]["after"]) == RUNNERS
    (deployment,) = dry["resources"]["prefect_deployments"]
    assert (deployment["flow"], deployment["schedules"]) == ("tickets", [{"interval": 300, "timezone": "UTC"}])
    assert not put(place, RUNNERS)["changed"]


def test_no_secret_in_a_diff(place: Path) -> None:
    def definitions_with(canary: str) -> dict[str, Any]:
        return {
            "prefect_flows": [{"name": "books", "description": "of secret-name"}],
            "prefect_tasks": [{"name": "buy", "flow_name": "books", "command": f"buy --token {canary}1"}],
            "prefect_deployments": [{"name": "daily", "flow_name": "books", "parameters": {"api_token": f"{canary}2"}}],
            "prefect_runners": [{"id": "sell", "use": "shop:Process", "with": {"queue": f"redis://:{canary}3@h/0"}}],
        }

    put(place, definitions_with("canary"))
    shown = put(place, definitions_with("canaries"), check_mode=True)["diff"]
    assert "canar" not in json.dumps(shown)
    assert shown["after"].count("******** (new)") == 3
    # The action plugin knows what ansible-vault decrypted.
    again = masked_diff(shown, Mask(known=("secret-name",)))
    assert "secret-name" not in json.dumps(again)
    assert again["after"].count("******** (new)") == 3
    assert "canaries" in json.dumps(put(place, definitions_with("canaries"), show_secrets=True)["diff"])


def test_a_bare_host_is_predicted(tmp_path: Path) -> None:
    assert put(tmp_path / "none", RUNNERS, check_mode=True) == {"changed": True}


@pytest.mark.parametrize(
    ("runner", "said"),
    [
        ({"use": "shop:Proces"}, "shop:Proces cannot be imported: shop has no Proces"),
        ({"use": "shops:Process"}, "No module named 'shops'"),
        ({"use": "shop:Process", "with": {"que": 1}}, "cannot be called so"),
        ({"use": "json:JSONEncoder"}, "is a class without run() and process()"),
        ({"command": "true ${API_KEY}"}, "${API_KEY} is not set on this host and has no default"),
        ({"celery_task_name": "shop.price"}, "CELERY_BROKER_URL is not set on this host"),
    ],
)
def test_what_would_fail_here_is_refused(place: Path, runner: dict[str, Any], said: str) -> None:
    refused = put(place, {"prefect_runners": [{"id": "r", **runner}]})
    assert refused["failed"]
    (problem,) = refused["problems"]
    assert said in problem
    assert not (place / "definitions.json").exists()


CONFIG = """
mail: {password: unread}
orchestrator:
  runners:
    - {pipe_id: tickets, interval_seconds: 300, pipe: {use: Tickets, queue: 2026-01-02T03:04:05Z}}
"""


def of_application(place: Path, config: str, **options: Any) -> dict[str, Any]:
    """Return the answer of the module to what the action plugin reads from an application's configuration."""
    (place / "config.yml").write_text(config)
    files = json.dumps(read(place / "config.yml"))
    assert "unread" not in files
    (place / "wiring.py").write_text("import shop\ndef make(name): return {'Tickets': shop.Process}.get(name)\n")
    return put(place, {}, files=files, **options)


def test_the_configuration_of_an_application_is_a_source_as_it_stands(place: Path) -> None:
    dry = of_application(place, CONFIG, factory="wiring:make", check_mode=True)
    (runner,) = json.loads(dry["diff"]["after"])["prefect_runners"]
    # As the file has it: JSON has no dates.
    assert runner["with"] == {"queue": "2026-01-02T03:04:05Z"}
    assert not (place / "definitions.json").exists()
    assert of_application(place, CONFIG, factory="wiring:make") == dry
    (deployment,) = dry["resources"]["prefect_deployments"]
    assert (deployment["flow"], deployment["schedules"]) == ("tickets", [{"interval": 300, "timezone": "UTC"}])
    assert not of_application(place, CONFIG, factory="wiring:make")["changed"]


@pytest.mark.parametrize(
    ("before", "after", "factory", "said"),
    [
        ("Tickets", "Ticket", "wiring:make", "pipe.use: wiring:make returned None for 'Ticket'; correct the name"),
        ("Tickets", "Tickets", "", "pipe.use is 'Tickets', but has to be package.module:callable, or a name, with"),
        ("queue: ", "que: ", "wiring:make", "pipe.use: Tickets(queue) cannot be called so"),
        ("300", "5m", "wiring:make", "interval_seconds is '5m', but has to be a number"),
    ],
)
def test_a_configuration_that_cannot_run_is_refused(
    place: Path, before: str, after: str, factory: str, said: str
) -> None:
    refused = of_application(place, CONFIG.replace(before, after), factory=factory)
    (problem,) = refused["problems"]
    assert problem.startswith(f"config.yml: orchestrator.runners[0] (tickets): {said}"), problem
    assert not (place / "definitions.json").exists()


UNRULY = {
    "prints": ("print('hello')\nimport os; os.write(1, b'raw')", ""),
    "prints at exit": ("import atexit; atexit.register(print, 'bye')", ""),
    "fails at exit": ("import atexit; atexit.register(lambda: 1 / 0)", ""),
    "leaves a thread": ("import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()", ""),
    "exits": ("import sys; sys.exit('no settings')", "unruly calls sys.exit('no settings') when it is imported"),
    "exits well": ("raise SystemExit", "unruly calls sys.exit(None) when it is imported"),
    "stops": ("raise GeneratorExit('x')", "unruly:work cannot be imported: GeneratorExit: x"),
    "is lazy": ("def __getattr__(name): raise KeyError(name)", "unruly:work cannot be imported: KeyError"),
    "kills": ("import os; os._exit(3)", "exit code 3 and gave no answer"),
}


@pytest.mark.parametrize("how", UNRULY)
def test_a_module_may_do_what_it_likes_when_it_is_imported(place: Path, how: str) -> None:
    text, said = UNRULY[how]
    tail = "" if how == "is lazy" else "\ndef work(): pass\n"
    (place / "unruly.py").write_text(text + tail)
    answer = put(place, {"prefect_runners": [{"id": "r", "use": "unruly:work"}]})
    assert bool(answer.get("failed")) == bool(said), answer
    assert said in answer.get("msg", "")


def test_a_package_that_does_not_run_says_why(tmp_path: Path) -> None:
    refused = put(tmp_path, RUNNERS)
    assert "No module named prefect_definitions" in refused["msg"]


def test_files_are_merged(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("prefect_flows: [{name: a}]\n")
    (tmp_path / "b.json").write_text('{"prefect_flows": [{"name": "b"}]}')
    read_files = read(tmp_path)
    assert read_files == {"a.yml": {"prefect_flows": [{"name": "a"}]}, "b.json": {"prefect_flows": [{"name": "b"}]}}
    assert sources.data_of(sources.merged(read_files)) == {"prefect_flows": [{"name": "a"}, {"name": "b"}]}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(AnsibleActionFail, match=r"b\.json"):
        read(tmp_path)
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(AnsibleActionFail, match="lists by name"):
        read(tmp_path)
    with pytest.raises(AnsibleActionFail, match="there is no"):
        read(tmp_path / "c")


def test_files_that_vanish_or_are_being_written_change_nothing(place: Path, tmp_path: Path) -> None:
    put(place, RUNNERS)
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(AnsibleActionFail, match="has no file of definitions"):
        read(source)
    (source / "runners.yml").touch()
    refused = put(place, {}, files=json.dumps(read(source)), check_mode=True)
    assert "runners.yml is empty; remove it, or write prefect_flows: []" in refused["msg"]
    (source / "runners.yml").write_text("prefect_flows: []\n")
    assert put(place, {}, files=json.dumps(read(source)))["resources"]["prefect_deployments"] == []


def test_flows_that_are_code_are_left_to_others() -> None:
    data: dict[str, list[dict[str, Any]]] = {
        "prefect_flows": [{"name": "data"}, {"name": "code"}],
        "prefect_tasks": [{"name": "t", "flow_name": "data"}],
        "prefect_deployments": [
            {"name": "a", "flow_name": "data"},
            {"name": "b", "flow": "code", "entrypoint": "code.py:code"},
            {"name": "c", "flow_name": "misspelt"},
        ],
    }
    kept = of_inventory(data)
    assert [flow["name"] for flow in kept["prefect_flows"]] == ["data"]
    assert [deployment["name"] for deployment in kept["prefect_deployments"]] == ["a", "c"]
    assert of_inventory({**data, "prefect_tasks": []})["prefect_flows"] == []


SCHEDULES: list[dict[str, Any]] = [
    {"schedule_type": "cron", "schedule_config": {"cron_string": "0 6 * * *", "timezone": "Europe/Berlin"}},
    {"schedule_type": "interval", "schedule_config": {"interval_seconds": 300, "anchor_date": "2026-01-01T00:00:00Z"}},
    {"schedule_type": "rrule", "schedule_config": {"rrule": "FREQ=DAILY"}},
    {"is_active": False, "parameters": {"day": 1}, "tags": ["a"], "description": "x"},
]


@pytest.mark.parametrize("typed", [True, False])
def test_a_host_that_follows_registers_what_ansible_does(typed: bool) -> None:
    """What one has registered, the other has nothing to change of, its schedules being the same ones."""
    data: dict[str, list[dict[str, Any]]] = {
        "prefect_work_pools": [{"name": "pool", "pool_type": "process", "concurrency_limit": 10}],
        "prefect_flows": [{"name": "etl", "tags": ["a"]}],
        "prefect_tasks": [{"name": "t", "flow_name": "etl", "command": "true"}],
        "prefect_deployments": [
            {"name": f"d{number}", "flow_name": "etl", "work_pool_name": "pool", **words}
            for number, words in enumerate(SCHEDULES)
        ],
    }
    made = resources(Definitions.of(rows_of(data)), directory=Path("/srv"), work_pool="pool")
    with FakeApi() as fake, Api(fake.url) as api:
        for first in (True, False):
            wish = Wish(owner="definitions", prune=True, adopt="unowned", pauses="enforce", typed=typed == first)
            report, server = reconcile(api, made, wish)
            server.close()
            assert len(report.plans) == (6 if first else 0), report.lines(server)
