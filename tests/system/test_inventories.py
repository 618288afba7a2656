"""The inventories that a stranger copies are taken by the checks that come before anything changes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from real_host import BIN, ROOT

INVENTORIES = sorted(path.parent.name for path in (ROOT / "inventories").glob("*/hosts.yml"))

CHECK = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: selfhosted.prefect.prefect
        tasks_from: check
        public: true
    - ansible.builtin.copy:
        content: "{{ {'api': prefect_api_url, 'auth': prefect_api_auth, 'database': __prefect_database.kind,
                      'redis': __prefect_redis.present} | to_json }}"
        dest: "{{ seen }}/{{ inventory_hostname }}"
        mode: "0600"
      delegate_to: localhost
      vars: {ansible_connection: local, ansible_become: false}
"""


def ansible(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "ansible-playbook"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", INVENTORIES)
def test_inventory(name: str, tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(CHECK)
    (tmp_path / "seen").mkdir()
    variables: dict[str, object] = {"seen": str(tmp_path / "seen"), "prefect_secrets_dir": str(tmp_path / "secrets")}
    # No host is read here, and before that no secret is generated.
    variables["__prefect_may_generate"] = True
    inventory = str(ROOT / "inventories" / name)
    checked = ansible("-i", inventory, "-e", json.dumps(variables), str(tmp_path / "play.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    said = {path.name: json.loads(path.read_text()) for path in (tmp_path / "seen").iterdir()}
    assert len({host["auth"] for host in said.values()}) == 1, "one password for everybody"
    expected = {"local": ("sqlite", False), "dev": ("sqlite", False), "qa": ("postgresql", False)}
    assert {(host["database"], host["redis"]) for host in said.values()} == {expected.get(name, ("postgresql", True))}
    assert bool(said.popitem()[1]["auth"]) is (name != "local"), "what others reach has a password"


@pytest.mark.parametrize("name", INVENTORIES)
def test_every_group_has_its_play(name: str) -> None:
    groups = yaml.safe_load((ROOT / "inventories" / name / "hosts.yml").read_text())["all"]["children"]
    for playbook in ("present", "absent"):
        plays = yaml.safe_load((ROOT / "playbooks" / f"{playbook}.yml").read_text())
        assert set(groups) <= {play["hosts"] for play in plays if "hosts" in play}
