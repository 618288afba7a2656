"""Playbooks that must not go on with some of the servers, run by a real `ansible-playbook` on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
    assert "unreachable=1" in said and "Read the host]" in last, said
