"""The examples in the documentation of the modules, run by Ansible on a real server with a worker."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.engine import Server
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.reconcile import reconcile
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.table import KINDS, listed
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.wishes import Wish
from conftest import AUTH, RELEASES, PrefectServer

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300

# In this order: the later examples create a pool that no worker serves, or refer to objects of the earlier ones.
MODULES = [
    *("info", "flow_run", "resources", "work_pool", "work_queue", "variable", "flow", "global_concurrency_limit"),
    *("tag_concurrency_limit", "block_type", "block", "deployment", "automation", "server_settings", "export"),
]

FLOWS = """
from prefect import flow, pause_flow_run
from prefect.input import RunInput


class Approval(RunInput):
    approved: bool


@flow(log_prints=True)
def hello(name="you"):
    print(f"Hello, {name}!")


@flow
def migrate():
    return 42


@flow
def approval():
    assert pause_flow_run(wait_for_input=Approval, timeout=300, poll_interval=1).approved
"""

TEMPLATE = {
    "job_configuration": {"command": "{{ command }}"},
    "variables": {"type": "object", "properties": {"command": {"type": "string"}}},
}
VARIABLES = {
    "vault_shop_password": "hush",
    "vault_slack_url": "https://hooks.slack.example.com/T/B/x",
    "prefect_api_auth": AUTH,
}

pytestmark = pytest.mark.parametrize("server", RELEASES[-1:], ids=str, indirect=True)


def test_all_modules_of_the_api_are_tried(server: PrefectServer) -> None:
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())
    assert sorted(MODULES) == runtime["action_groups"]["api"]


@pytest.fixture
def prepared(server: PrefectServer, tmp_path: Path) -> Iterator[PrefectServer]:
    """A server with a worker, and with what the examples refer to."""
    (tmp_path / "flows.py").write_text(FLOWS)
    wanted: dict[str, list[dict[str, Any]]] = {
        "prefect_work_pools": [{"name": "default", "type": "process"}],
        "prefect_deployments": [
            {
                "flow": name,
                "name": "default",
                "entrypoint": f"flows.py:{name}",
                "path": str(tmp_path),
                "work_pool": "default",
            }
            for name in ("hello", "migrate", "approval")
        ]
        + [{"flow": "report", "name": "daily"}],
        "prefect_block_types": [{"slug": "s3-bucket", "schema": {"properties": {"bucket_name": {"type": "string"}}}}],
        "prefect_blocks": [{"block_type": "s3-bucket", "name": "results", "data": {"bucket_name": "results"}}],
    }
    python = RELEASES[-1].python
    assert python
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))},
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": server.url,
        "PREFECT_API_AUTH_STRING": AUTH,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
    }
    command = [str(python.with_name("prefect")), "--no-prompt", "worker", "start", "--pool", "default"]
    # A worker stops on SIGINT only, and inherits that it is ignored from a shell that runs pytest in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with server.api() as api:
        reconcile(api, wanted, Wish(owner="examples"))
        # What "Retry what failed last" retries.
        hello = api.get("/deployments/name/hello/default")
        run = api.post(f"/deployments/{hello['id']}/create_flow_run", {"state": {"type": "PENDING"}})
        api.post(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "FAILED"}, "force": True})
        worker = subprocess.Popen(
            [*command, "--type", "process", "--install-policy", "never"], env=environment, cwd=tmp_path
        )
        try:
            deadline = time.monotonic() + SECONDS
            while not api.post("/work_pools/default/workers/filter", {}):
                assert time.monotonic() < deadline, "the worker did not come"
                time.sleep(0.5)
            yield server
        finally:
            worker.terminate()
            worker.wait(timeout=SECONDS)
            api.call("DELETE", "/admin/storage")
            there = listed(Server(api, KINDS, bulk=True), KINDS)
            gone = {
                KINDS[name].list_name: [
                    {key: entry[key] for key in KINDS[name].keys} | {"state": "absent"}
                    for entry in there[KINDS[name].list_name]
                    if not (name == "work_queue" and entry["name"] == "default")
                ]
                for name in KINDS
            }
            gone["prefect_block_types"] = [{"slug": slug, "state": "absent"} for slug in ("s3-bucket", "shop-account")]
            reconcile(api, gone, Wish(adopt="true"))


def addressed(tasks: Any, url: str) -> Any:
    """Return tasks with `url` in place of the servers that they name."""
    if isinstance(tasks, dict):
        return {name: url if name == "api_url" else addressed(each, url) for name, each in tasks.items()}
    return [addressed(each, url) for each in tasks] if isinstance(tasks, list) else tasks


def test_the_examples_run(prepared: PrefectServer, tmp_path: Path) -> None:
    package = "ansible_collections.selfhosted.prefect.plugins.modules"
    examples = {name: importlib.import_module(f"{package}.{name}").EXAMPLES for name in MODULES}
    tasks = [task for text in examples.values() for task in addressed(yaml.safe_load(text), prepared.url)]
    group = {"group/selfhosted.prefect.api": {"api_auth": AUTH, "api_csrf": True}}
    play = {"hosts": "localhost", "gather_facts": False, "vars": VARIABLES, "module_defaults": group, "tasks": tasks}
    (tmp_path / "main.json").write_text(json.dumps(TEMPLATE))
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "play.yml"],
        cwd=tmp_path,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(tmp_path / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Hello, Ada!" in ended.stdout
