"""Playbooks that must not go on with some of the servers, or show a secret, run by a real `ansible-playbook` here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.prefect.plugins.lookup.certificate import certificate_for
from ansible_collections.selfhosted.prefect.plugins.module_utils.masking import is_secret_name

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


MARK = "PREFECT_TEST_CANARIES"

SAID_ELSEWHERE = {
    "prefect_flows_source": "its token is tried in test_controller.py",
    "prefect_secrets_dir": "a path",
    "prefect_show_secrets": "a switch",
    "prefect_resources_export_secrets": "a choice",
    "prefect_api_url": "shown to everyone who runs a flow",
    "prefect_server_ui_api_url": "shown to every browser",
    "prefect_postgres_settings": "PostgreSQL's own, none of which is a secret",
}
"""Variables that look as if they held a secret, and do not, or not here."""


def secret_variables() -> Iterator[str]:
    """Name every variable of the roles that holds a secret, by its spec or by what it is called."""
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for spec in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            for name, option in spec.get("options", {}).items():
                looks = name.endswith(("_environment", "_settings", "_url", "_source"))
                if option.get("no_log") or looks or is_secret_name(name.removeprefix("prefect_")):
                    yield name


def with_canaries(directory: Path) -> tuple[dict[str, Any], set[str]]:
    """Return a value with a canary for each variable that holds a secret, and what to look for."""
    names = sorted({*secret_variables()} - SAID_ELSEWHERE.keys())
    text = {name: f"canary{uuid.uuid4().hex}" for name in names}
    pair = certificate_for(directory / "own", ["proxy.example.com"])
    text["prefect_proxy_certificate_key"] = pair["key"].splitlines()[1]

    def url(name: str, rest: str) -> str:
        return rest.replace("@", f"{text[name]}@", 1)

    variables: dict[str, Any] = {
        name: url(name, rest)
        for name, rest in {
            "prefect_celery_broker_url": "redis://flows:@127.0.0.1:1/7",
            "prefect_celery_result_backend": "redis://flows:@127.0.0.1:1/8",
            "prefect_database_url": "postgresql://prefect:@127.0.0.1:1/prefect",
            "prefect_definitions_load_into": "postgresql://prefect:@127.0.0.1:1/prefect",
            "prefect_definitions_source": "postgresql://prefect:@127.0.0.1:1/prefect",
            "prefect_index_url": "https://user:@127.0.0.1:1/simple",
            "prefect_redis_url": "redis://:@127.0.0.1:1/0",
        }.items()
    }
    for name in ("prefect_server_settings", "prefect_settings", "prefect_worker_settings"):
        variables[name] = {"PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps({"X-Canary": text[name]})}
    for name in ("celery", "definitions", "flows", "worker"):
        variables[f"prefect_{name}_environment"] = {"OF_THE_USER": text[f"prefect_{name}_environment"]}
    for name in ("prefect_database_password", "prefect_redis_password"):
        variables[name] = text[name]
    variables["prefect_api_auth"] = f"admin:{text['prefect_api_auth']}"
    variables["prefect_proxy_certificate_key"] = pair["key"]
    assert variables.keys() == text.keys(), (
        "give each variable that holds a secret its canary, or say where it is tried"
    )
    header = b64encode(f"admin:{text['prefect_api_auth']}".encode()).decode()
    return variables | {"prefect_proxy_certificate": pair["certificate"]}, {*text.values(), header}


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


def processes(mark: str) -> Iterator[tuple[Path, bytes]]:
    """Yield the processes of a run, each with its command line and its environment."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            if mark.encode() in environment:
                yield process, (process / "cmdline").read_bytes() + environment
        except OSError:
            # It has ended, or is another user's.
            continue


@pytest.mark.parametrize("reached", [False, True], ids=["fails", "passes"])
def test_no_canary_in_what_ansible_says_and_starts(tmp_path: Path, reached: bool) -> None:
    """Every role that needs no root, in check mode at -vvv, with a secret in each variable that holds one."""
    variables, canaries = with_canaries(tmp_path / "pair")
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
    mark = f"{MARK}={uuid.uuid4().hex}"
    given = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_CACHE_PLUGIN": "jsonfile",
        "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(tmp_path / "facts"),
        "PYTHONPATH": str(tmp_path / "watch"),
        "TMPDIR": str(tmp_path / "tmp"),
        "WATCHED": str(tmp_path / "watched"),
        MARK: mark.partition("=")[2],
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory)]
    shown, looks = set(), 0
    with (tmp_path / "said").open("w") as output:
        run = subprocess.Popen(
            [*command, "--check", "--diff", "-vvv", str(ROOT / "site.yml")],
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while run.poll() is None:
            for process, text in processes(mark):
                looks += 1
                shown |= {(process.name, canary) for canary in canaries if canary.encode() in text}
            time.sleep(0.05)
    said = (tmp_path / "said").read_text()
    assert (run.returncode == 0) is reached, said
    watched = (tmp_path / "watched").read_text()
    assert looks > 100 and "subprocess.Popen" in watched
    assert {canary for canary in canaries if canary in watched} == set()
    assert reached or "nothing listens at 127.0.0.1:1" in said
    assert shown == set()
    assert {canary for canary in canaries if canary in said} == set()
    left = [path for name in ("facts", "home", "tmp") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert [path for path in left if any(canary.encode() in path.read_bytes() for canary in canaries)] == []
