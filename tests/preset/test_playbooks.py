"""Playbooks that must not go on with some of the servers, or show a secret, run by a real `ansible-playbook` here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from canaries import Watch, with_canaries

ROOT = Path(__file__).resolve().parents[2]
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
# Nothing listens on the port of tcpmux.
LOST = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_retries": 0}
SHARED = {
    "prefect_instance": "no-such-instance",
    "prefect_database_url": "postgresql://prefect:s3cret@127.0.0.1:1/prefect",
    "prefect_redis_url": "redis://127.0.0.1:1/0",
    "prefect_server_restore": "latest",
    "prefect_server_reset": "no-such-instance",
    "prefect_rotate": ["api"],
}


def run(directory: Path, playbook: str, second: dict[str, Any], *arguments: str) -> str:
    """Run a playbook that must fail on two servers, and return what Ansible prints."""
    inventory = directory / "hosts.json"
    secrets = {"prefect_secrets_dir": str(directory / "secrets")}
    groups = {"prefect_server": {"hosts": {"one": LOCAL, "two": second}, "vars": SHARED | secrets}}
    inventory.write_text(json.dumps({"all": {"children": groups}}))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), *arguments]
    given = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(directory / "home")}
    ended = subprocess.run(
        [*command, str(ROOT / "playbooks" / f"{playbook}.yml")],
        env=given,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode in (2, 4), ended.stdout + ended.stderr
    return ended.stdout


def plays(said: str) -> list[str]:
    """Return what Ansible prints of each play that ran a task, but for those that only look at the inventory."""
    return [
        play for play in said.split("PLAY [")[1:] if "TASK [" in play and not play.startswith("Check the inventory]")
    ]


@pytest.mark.parametrize("playbook", ["reset", "restore", "rotate", "upgrade"])
def test_some_of_the_servers_are_refused(tmp_path: Path, playbook: str) -> None:
    said = run(tmp_path, playbook, LOCAL, "--limit", "two")
    assert "two: this run leaves out one, which uses the same database" in " ".join(said.split())
    assert "failed=1" in said and len(plays(said)) == 1


@pytest.mark.parametrize("playbook", ["reset", "restore", "upgrade"])
def test_the_others_stop_at_a_server_that_is_lost(tmp_path: Path, playbook: str) -> None:
    said = run(tmp_path, playbook, LOST)
    last = plays(said)[-1].rpartition("TASK [")[2]
    assert "unreachable=1" in said and "Gather the facts of the host]" in last, said


DEPENDS = """
- name: Servers
  hosts: prefect_server
  gather_facts: false
  any_errors_fatal: true
  serial: {serial}
  tasks:
    - ansible.builtin.command: "true"

- ansible.builtin.import_playbook: {root}/playbooks/reached.yml
  vars: {vars}

- name: What depends on the servers
  hosts: all
  gather_facts: false
  tasks:
    - name: Change what depends on them
      ansible.builtin.debug:
"""


@pytest.mark.parametrize(
    ("serial", "lost", "required", "says"),
    [
        pytest.param(
            1, ["one"], {}, "the connection to one was lost, see above; this run ends here", id="one of a batch"
        ),
        pytest.param(2, ["one"], {}, "the connection to one of one, two was lost, see above", id="one of two"),
        pytest.param(2, ["one", "two"], {}, "the connection to one of one, two was lost, see above", id="all"),
        pytest.param(1, ["one"], {"__prefect_required": "prefect_worker"}, "", id="one that is not required"),
        pytest.param(1, [], {}, "", id="none"),
    ],
)
def test_a_run_ends_where_a_host_was_lost(
    tmp_path: Path, serial: int, lost: list[str], required: dict[str, str], says: str
) -> None:
    """Ansible itself goes on with the other batches and plays, in spite of any_errors_fatal."""
    playbook, inventory = tmp_path / "play.yml", tmp_path / "hosts.json"
    playbook.write_text(DEPENDS.format(root=ROOT, serial=serial, vars=json.dumps(required)))
    servers = {name: LOST if name in lost else LOCAL for name in ("one", "two")}
    groups = {"prefect_server": {"hosts": servers}, "prefect_worker": {"hosts": {"three": LOCAL}}}
    inventory.write_text(json.dumps({"all": {"children": groups}}))
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), str(playbook)],
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(tmp_path / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join(ended.stdout.split())
    assert says in said and ("the connection to" in said) == bool(says), ended.stdout
    assert ("TASK [Change what depends on them]" in ended.stdout) == (not says), ended.stdout
    assert (ended.returncode == 0) == (not lost), ended.stdout


WATCH = """
import os, sys

STARTS = {"os.exec": 1, "os.posix_spawn": 1, "os.system": 0, "subprocess.Popen": 1}

def look(event, details):
    if event in STARTS:
        environment = details[-1] if event != "os.system" else None
        with open(os.environ["WATCHED"], "a", encoding="utf-8", errors="backslashreplace") as watched:
            print(event, details[STARTS[event]], dict(environment or os.environ), file=watched)

sys.addaudithook(look)
"""
"""A sitecustomize of each Python that a run starts: it writes down what this Python starts, however short it lives."""


@pytest.mark.parametrize("reached", [False, True], ids=["fails", "passes"])
def test_no_canary_in_what_ansible_says_and_starts(tmp_path: Path, reached: bool) -> None:
    """Every role that needs no root, in check mode at -vvv, with a secret in each variable that holds one."""
    canaries = with_canaries(
        tmp_path / "pair",
        domain="proxy.example.com",
        values={
            "prefect_celery_broker_url": "redis://flows:CANARY@127.0.0.1:1/7",
            "prefect_celery_result_backend": "redis://flows:CANARY@127.0.0.1:1/8",
            "prefect_database_password": "CANARY",
            "prefect_database_url": "postgresql://prefect:CANARY@127.0.0.1:1/prefect",
            "prefect_definitions_load_into": "postgresql://prefect:CANARY@127.0.0.1:1/prefect",
            "prefect_definitions_source": "postgresql://prefect:CANARY@127.0.0.1:1/prefect",
            "prefect_index_url": "https://user:CANARY@127.0.0.1:1/simple",
            "prefect_redis_password": "CANARY",
            "prefect_redis_url": "redis://:CANARY@127.0.0.1:1/0",
        },
    )
    variables = dict(canaries.variables)
    stocks = ROOT / "docs" / "examples" / "stocks"
    variables |= {f"prefect_{name}_dir": str(tmp_path / name) for name in ("etc", "opt", "secrets")}
    variables |= {
        "prefect_home": str(tmp_path / "data"),
        "prefect_instance": "canaries",
        "prefect_scope": "user",
        "prefect_service_manager": "none",
        "prefect_flows_source": str(stocks / "flows"),
        "prefect_flows_deployment_scripts": [{"name": "any", "content": "pass"}],
        "prefect_celery_app": "stocks",
        "prefect_packages": ["celery"],
    }
    if reached:
        # Nothing listens there, which the servers find out.
        for name in ("prefect_database_url", "prefect_redis_url"):
            del variables[name]
        variables["prefect_definitions_source"] = str(stocks / "definitions.yml")
    groups: dict[str, Any] = {
        f"prefect_{name}": {"hosts": {"one": {}}} for name in ("server", "worker", "flows", "celery", "definitions")
    }
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": {"one": LOCAL | variables}, "children": groups}}))
    for name in ("facts", "home", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    given = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_CACHE_PLUGIN": "jsonfile",
        "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(tmp_path / "facts"),
        "PYTHONPATH": str(tmp_path / "watch"),
        "TMPDIR": str(tmp_path / "tmp"),
        "WATCHED": str(tmp_path / "watched"),
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory)]
    with (tmp_path / "said").open("w") as output, Watch(canaries) as watch:
        run = subprocess.run(
            [*command, "--check", "--diff", "-vvv", str(ROOT / "site.yml")],
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    said = (tmp_path / "said").read_text()
    assert (run.returncode == 0) is reached, said
    watched = (tmp_path / "watched").read_text()
    assert watch.looks > 100 and "subprocess.Popen" in watched
    assert canaries.within(watched) == set()
    assert reached or "nothing listens at 127.0.0.1:1" in said
    assert watch.seen == set()
    assert canaries.within(said) == set()
    assert canaries.files(*(tmp_path / name for name in ("facts", "home", "tmp"))) == []
