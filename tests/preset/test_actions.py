"""The action plugins that do more than their modules, run by a real `ansible-playbook` on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def play(directory: Path, text: str, *arguments: str, **environment: str) -> str:
    """Run a playbook that must succeed, from `directory`, which it knows as `dir`, and return what Ansible prints."""
    playbook = directory / "play.yml"
    playbook.write_text(text)
    (directory / "tmp").mkdir()
    variables = {"dir": str(directory), "ansible_remote_tmp": str(directory / "tmp")}
    variables["ansible_python_interpreter"] = sys.executable
    command = [
        str(BIN / "ansible-playbook"),
        "-i",
        "localhost,",
        "-c",
        "local",
        "-e",
        json.dumps(variables),
        *arguments,
    ]
    given = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")} | environment
    ended = subprocess.run([*command, str(playbook)], cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def put(directory: Path, **files: str) -> None:
    """Write files, with __ for a slash in their names."""
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


TREE = """
- hosts: localhost
  gather_facts: false
  tasks:
    - selfhosted.prefect.host_tree: &call {src: flows, dest: "{{ dir }}/dest", state_dir: "{{ dir }}/state"}
      register: dry
      check_mode: true
    - ansible.builtin.assert: {that: "(dir ~ '/dest') is not exists"}
    - selfhosted.prefect.host_tree: *call
      register: real
    - selfhosted.prefect.host_tree: *call
      register: again
    - selfhosted.prefect.host_tree: {src: "{{ dir }}/play.yml", dest: "{{ dir }}/dest", state_dir: "{{ dir }}/state"}
      register: refused
      ignore_errors: true
    - ansible.builtin.assert:
        that:
          - dry.sent == ['a.py', 'b/c/d.py']
          - real == dry
          - not again.changed
          - refused.msg is search('play.yml is no directory')
"""


def test_tree(tmp_path: Path) -> None:
    put(tmp_path / "files" / "flows", **{"a.py": "a", "b__c__d.py": "d", ".env": "x", "b__x.pyc": "x"})
    play(tmp_path, TREE)
    assert [(tmp_path / "dest" / name).read_text() for name in ("a.py", "b/c/d.py")] == ["a", "d"]
    assert {path.name for path in (tmp_path / "dest").iterdir()} == {"a.py", "b"}
    assert list((tmp_path / "tmp").iterdir()) == []


VALIDATE = """
- hosts: localhost
  gather_facts: false
  tasks:
    - selfhosted.prefect.validate:
        settings:
          prefect_settings: {PREFECT_LOGGING_LEVEL: DEBUG}
      register: good
      vars:
        prefect_server_port: 1
    - selfhosted.prefect.validate:
        settings:
          prefect_settings: {PREFECT_API_URL: x}
          prefect_worker_settings: {PREFECT_STORAGE_TYPE: x}
        api_auth: s3cret
        server: {name: one, listens_on: localhost}
        secrets: {prefect_database_password: pgpass, prefect_redis_password: ""}
        topology: {servers: [one, two], database: postgresql, redis: false}
      register: bad
      ignore_errors: true
      vars:
        prefect_server_prot: 1
    - ansible.builtin.assert:
        that:
          - not good.changed
          - bad.msg.splitlines() | map('split', ':') | map('first') == lines
      vars:
        lines:
          - prefect_server_prot
          - prefect_settings
          - prefect_worker_settings
          - prefect_api_auth
          - prefect_server_host
          - prefect_database_password
          - prefect_redis_host
"""


def test_validate_makes_all_problems_at_once(tmp_path: Path) -> None:
    play(tmp_path, VALIDATE, "-vvv")


VERSIONS = """
- hosts: localhost
  gather_facts: false
  tasks:
    - selfhosted.prefect.validate: {version: 3.6.29}
      register: shipped
    - selfhosted.prefect.validate: {version: 3.99.0}
      register: unlocked
    - selfhosted.prefect.validate: {version: 3.99.0, lock: /own.txt}
      register: own
    - selfhosted.prefect.validate: {version: "{{ item }}"}
      loop: [latest, "3", 3.9, 2.20.3]
      register: bad
      ignore_errors: true
    - ansible.builtin.assert:
        that:
          - shipped.warnings is not defined
          - own.warnings is not defined
          - "'prefect_version: 3.99.0 has no lock in this collection' in unlocked.warnings | string"
          - bad.results | selectattr('failed') | length == 4
          - bad.results | map(attribute='msg') | select('search', shipped_versions) | length == 4
"""


def test_validate_says_which_versions_have_a_lock(tmp_path: Path) -> None:
    shipped = (path.stem for path in (ROOT / "roles/prefect/files/locks").glob("3*.txt"))
    in_order = ", ".join(sorted(shipped, key=lambda version: [int(part) for part in version.split(".")]))
    printed = play(tmp_path, VERSIONS, "-e", json.dumps({"shipped_versions": in_order}))
    assert "prefect_version: 3.99.0 has no lock in this collection" in " ".join(printed.split())


FILES = """
- hosts: localhost
  gather_facts: false
  vars:
    password: "{{ lookup('ansible.builtin.env', name) }}"
    name: none
  tasks:
    - selfhosted.prefect.host_files:
        files:
          - {path: "{{ dir }}/hidden", template: env.j2, vars: {name: hidden}, mode: "0600", secret: true}
          - {path: "{{ dir }}/shown", template: env.j2, vars: {name: shown}, mode: "0600", secret: false}
"""


def test_files_renders_a_secret_and_nothing_prints_it(tmp_path: Path) -> None:
    put(tmp_path / "templates", **{"env.j2": "PASSWORD={{ password }}\nNAME={{ name }}\n"})
    printed = play(tmp_path, FILES, "-vvv", "--diff", hidden="s3cret", shown="public")
    assert (tmp_path / "hidden").read_text() == "PASSWORD=s3cret\nNAME=hidden\n"
    assert "+PASSWORD=public" in printed
    assert "s3cret" not in printed


DEPLOYMENT_SCRIPTS = """
- hosts: all
  gather_facts: false
  vars:
    secret: "{{ lookup('ansible.builtin.env', 'SECRET') }}"
  tasks:
    - selfhosted.prefect.host_deployment_scripts: &call
        scripts:
          - {name: here, content: "print('here')"}
          - {name: sent, src: sent.py, hosts: localhost}
          - {name: elsewhere, content: "raise SystemExit(1)", hosts: [elsewhere]}
        chdir: "{{ dir }}/flows"
        release: "{{ dir }}/current"
        settings_file: "{{ dir }}/client.env"
        state_dir: "{{ dir }}/state"
        environment: {FLAG: true, LIST: [1, "{{ 1 + 1 }}"], EMPTY: null, SECRET: "{{ secret }}"}
    - selfhosted.prefect.host_deployment_scripts:
        <<: *call
        scripts: ["{{ item }}"]
      loop:
        - {path: deploy.py}
        - deploy.py
        - {name: both, src: sent.py, content: "1"}
        - {name: lost, src: gone.py}
      ignore_errors: true
"""


def test_deployment_scripts(tmp_path: Path) -> None:
    sent = "import os; print([os.environ[name] for name in ('FLAG', 'LIST', 'EMPTY')], len(os.environ['SECRET']))"
    put(tmp_path, **{"files__sent.py": sent, "flows__deploy.py": "", "client.env": "PREFECT_API_URL=http://x/api\n"})
    python = tmp_path / "releases" / "1" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (tmp_path / "current").symlink_to("releases/1")
    printed = play(tmp_path, DEPLOYMENT_SCRIPTS, "-vvv", SECRET="s3cret")
    assert "['true', '[1, 2]', ''] 6" in printed
    assert "s3cret" not in printed
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"script-here.done", "script-sent.done"}
    for refused in (
        "a script has no name: {'path': 'deploy.py'}",
        "a script has no name: deploy.py",
        "both has a content and a src; leave one out",
        "Could not find or access 'gone.py'",
    ):
        assert refused in printed
