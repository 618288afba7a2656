"""What only Ansible itself can say: lookups, actions and masking, in plays that a real `ansible-playbook` runs here."""

from __future__ import annotations

import base64
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.selfhosted.prefect.plugins.filter.secrets import fingerprints
from fake_api import FakeApi

ROOT = Path(__file__).resolve().parents[2]

BIN = Path(sys.executable).parent


def ansible(command: str, *arguments: object, environment: dict[str, str] | None = None, cwd: Path = ROOT) -> Any:
    """Run a command of Ansible's on this machine; return its exit code and all that it prints."""
    done = subprocess.run(
        [str(BIN / command), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"}
        | (environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def play(
    directory: Path, text: str, *arguments: object, environment: dict[str, str] | None = None, **given: Any
) -> Any:
    """Run a play on one host, which is this one, with variables; return its exit code and all that it prints."""
    (directory / "play.yml").write_text(text)
    variables = json.dumps({"ansible_python_interpreter": sys.executable, **given})
    place = ("-i", "one,", "--connection=local", "-e", variables)
    return ansible("ansible-playbook", *place, *arguments, directory / "play.yml", environment=environment)


def over_ssh(directory: Path) -> dict[str, str]:
    """Return the environment in which the connection ssh leads to this machine: with `-vvv`, it shows raw results."""
    ssh = directory / "ssh"
    ssh.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    return {"ANSIBLE_SSH_EXECUTABLE": str(ssh), "ANSIBLE_PIPELINING": "1"}


LIMITED = """
all:
  vars: {ansible_connection: local, ansible_python_interpreter: /bin/false, prefect_server_host: 0.0.0.0}
  children:
    prefect_postgres: {hosts: {db1: }}
    prefect_server: {hosts: {server1: , server2: }}
    prefect_worker: {hosts: {worker1: , worker2: }}
"""


@pytest.mark.parametrize(
    ("limit", "lacks", "left_out"),
    [
        ("worker2", "api", "server1, server2"),
        ("server2", "api, database, ca", "db1, server1"),
        # What it generates, it generates for all others.
        ("db1", "", ""),
        ("", "", ""),
    ],
)
def test_no_secret_is_generated_without_asking_who_may_have_one(
    tmp_path: Path, limit: str, lacks: str, left_out: str
) -> None:
    """A colleague without the directory of secrets adds a host: it would get others than the rest."""
    (tmp_path / "hosts.yml").write_text(LIMITED)
    arguments = ("--limit", limit) if limit else ()
    code, said = ansible("ansible-playbook", "-i", tmp_path / "hosts.yml", "site.yml", *arguments)
    words = " ".join(said.split())
    assert code and not (tmp_path / ".secrets").exists(), said
    refused = (
        f"{tmp_path}/.secrets/prefect on this controller has no {lacks}, and this run leaves out {left_out}, where"
    )
    assert (refused in words) == bool(lacks), words
    assert ("Compare the secrets that the controller lacks" in words) != bool(lacks)


@pytest.mark.parametrize(
    "inventory",
    ["", "[prefect_servers]\none\n", "one\n", "[prefect_server]\n"],
    ids=["empty", "mistyped", "ungrouped", "group"],
)
@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/status.yml"])
def test_an_inventory_without_a_host_fails(tmp_path: Path, inventory: str, playbook: str) -> None:
    """What `make site` and `make status` run."""
    (tmp_path / "hosts").write_text(inventory)
    code, said = ansible("ansible-playbook", "-i", tmp_path / "hosts", playbook)
    assert code, said
    assert "has no host in any of the groups" in said


@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/status.yml", "playbooks/backup.yml"])
def test_a_limit_that_leaves_no_host_fails(tmp_path: Path, playbook: str) -> None:
    (tmp_path / "hosts").write_text("[prefect_server]\none\n[web]\nweb1\n")
    code, said = ansible("ansible-playbook", "-i", tmp_path / "hosts", playbook, "--limit", "web1")
    assert code, said
    assert "that --limit web1 leaves" in " ".join(said.split())


def test_a_group_with_a_mistyped_name_fails(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("[prefect_server]\none\n[prefect_wokrer]\ntwo\n")
    code, said = ansible("ansible-playbook", "-i", tmp_path / "hosts", "site.yml")
    assert code, said
    assert "prefect_wokrer (prefect_worker?)" in said


@pytest.mark.parametrize(
    ("playbook", "words"),
    [("run", "groups prefect_server, prefect_resources"), ("site", "describes prefect_variables, and has no host")],
)
def test_an_inventory_whose_server_is_elsewhere_fails(tmp_path: Path, playbook: str, words: str) -> None:
    (tmp_path / "hosts").write_text('[prefect_worker]\none prefect_variables=\'[{"name": "a", "value": 1}]\'\n')
    code, said = ansible("ansible-playbook", "-i", tmp_path / "hosts", f"playbooks/{playbook}.yml")
    assert code, said
    assert words in " ".join(said.split())


LOOKUPS = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: "{{ hostvars[inventory_hostname].mine }} {{ mine == hostvars[inventory_hostname].mine }}"
  vars:
    secrets: "{{ playbook_dir }}/.secrets"
    other: "{{ lookup('selfhosted.prefect.certificate', 'prefect/db1', directory=secrets, names=['db1']) }}"
  post_tasks:
    - ansible.builtin.debug:
        msg: "{{ lookup('selfhosted.prefect.secret', 'prefect/api', directory=secrets) }} {{ other.certificate }}"
"""


def test_check_mode_writes_nothing_on_the_controller(tmp_path: Path) -> None:
    """Ansible says to a lookup whether it is in check mode."""
    (tmp_path / "play.yml").touch()
    mine = "{{ lookup('selfhosted.prefect.secret', 'x', directory='DIR') }}".replace("DIR", f"{tmp_path}/.secrets")
    for dry in (True, False):
        before = sorted(tmp_path.rglob("*"))
        code, said = play(tmp_path, LOOKUPS, *(["--check"] if dry else []), mine=mine)
        assert code == 0, said
        assert (sorted(tmp_path.rglob("*")) == before) is dry
    assert {path.name for path in tmp_path.rglob("*")} >= {"x", "api", "ca.key", "db1.crt"}


def test_an_inline_inventory_has_the_same_secrets_in_every_directory(tmp_path: Path) -> None:
    """What Ansible says of the directory of an inventory that is no file."""
    seen = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        message = "msg={{ lookup('selfhosted.prefect.topology', 'secrets_dir') }}"
        arguments = ("all", "-i", "a,", "-e", '{"prefect_servers": []}', "--connection=local", "-m", "debug")
        code, said = ansible("ansible", *arguments, "-a", message, cwd=tmp_path / name)
        assert code == 0, said
        seen.add(said)
    (said,) = seen
    assert "/selfhosted.prefect/a" in said


KEPT = """
- hosts: all
  gather_facts: false
  vars:
    mine: "{{ lookup('selfhosted.prefect.secret', 'prefect/api', directory=root, generate=host is defined) }}"
  tasks:
    - ansible.builtin.debug:
        msg: "{{ mine == mine }} {{ mine | length }}"
    - selfhosted.prefect.host_preflight:
        scope: user
        etc_dir: "{{ etc }}"
        state: absent
        secrets: {directory: "{{ root }}/prefect", names: [api], replaced: "{{ replaced | default([]) }}"}
      register: host
    - ansible.builtin.debug:
        msg: "generated {{ mine }}"
    - selfhosted.prefect.host_secrets:
        state: fetched
        directory: "{{ other }}"
        instance: prefect
        name: prefect-test
        etc_dir: "{{ etc }}"
        scope: user
"""


def test_a_run_stops_before_it_generates_what_a_host_has(tmp_path: Path) -> None:
    """The actions, the lookup and the modules together."""
    etc, root, other = tmp_path / "etc", tmp_path / ".secrets", tmp_path / "other"
    etc.mkdir()
    lines = [f"{name} {known}" for name, known in fingerprints({"api": "q" * 40}, {}).items()]
    (etc / "fingerprints").write_text("\n".join(["#", "# Ansible managed", "#", *lines]) + "\n")

    def run(**given: Any) -> tuple[int, str]:
        code, said = play(tmp_path, KEPT, "-vvv", etc=str(etc), root=str(root), other=str(other), **given)
        return code, said

    code, said = run()
    assert code and "True 40" in said and "one remembers the secret 'api'" in " ".join(said.split())
    assert not root.exists()

    code, said = run(replaced=["api"])
    assert not code and f"generated {(root / 'prefect/api').read_text().strip()}" in said

    (etc / "client.env").write_text(f'PREFECT_API_AUTH_STRING="admin:{"q" * 40}"\n')
    environment = over_ssh(tmp_path)
    given = {"etc": str(etc), "root": str(root), "other": str(other), "replaced": ["api"]}
    code, said = play(tmp_path, KEPT, "-vvv", "--connection=ssh", environment=environment, **given)
    assert not code and (other / "prefect/api").read_text() == "q" * 40 + "\n"
    assert "SSH: EXEC" in said and "q" * 40 not in said


VAULTED = """
- hosts: all
  gather_facts: false
  vars:
    inline: !vault |
      {inline}
  tasks:
    - selfhosted.prefect.resources:
        api_url: "{url}"
        prefect_variables:
          - {{name: a, value: "{{{{ vault_plain }}}}"}}
          - {{name: b, value: "say {{{{ inline }}}} to {{{{ in_a_file.deep[0] }}}}"}}
          - {{name: c, value: "shown"}}
"""


@pytest.mark.parametrize("show", [False, True])
def test_what_was_encrypted_is_hidden(tmp_path: Path, show: bool) -> None:
    vault = VaultLib([("default", VaultSecret(b"x"))])
    (tmp_path / "group_vars").mkdir()
    encrypted = vault.encrypt(yaml.safe_dump({"in_a_file": {"deep": ["canary-file"]}}))
    (tmp_path / "group_vars/all.yml").write_bytes(encrypted)
    (tmp_path / "password").write_text("x")
    (tmp_path / "hosts").write_text("one vault_plain=canary-plain\n")
    inline = vault.encrypt("canary-inline").decode().replace("\n", "\n      ")
    options = ("-i", tmp_path / "hosts", "--vault-password-file", tmp_path / "password", "-vvv", "--diff")
    with FakeApi() as fake:
        text = VAULTED.format(url=fake.url, inline=inline)
        code, said = play(tmp_path, text, *options, prefect_show_secrets=show)
        assert code == 0, said
        held: dict[str, Any] = {row["name"]: row["value"] for row in fake.objects.of("variables")}
    assert held["b"] == "say canary-inline to canary-file"
    assert "shown" in said
    assert ("canary-plain" in said) == show
    # From core 2.22 on, Ansible itself replaces each text that it has decrypted, wherever it is shown.
    is_replaced = find_spec("ansible.module_utils.secrets") is not None
    assert [f"canary-{name}" in said for name in ("inline", "file")] == [show and not is_replaced] * 2


DEFINITIONS = """
- hosts: all
  gather_facts: false
  tasks:
    - selfhosted.prefect.host_definitions:
        {{directory: "{directory}", python: "{python}", data: "{{{{ definitions }}}}"}}
      register: placed
      diff: true
    - ansible.builtin.assert: {{that: "placed.resources.prefect_deployments[0].parameters.api_token | length == 12"}}
"""


@pytest.mark.parametrize("show", [False, True])
def test_no_secret_in_what_is_shown_of_definitions(tmp_path: Path, show: bool) -> None:
    shipped = ROOT / "roles/prefect_definitions/files/definitions"
    directory = shutil.copytree(shipped, tmp_path / "definitions", ignore=shutil.ignore_patterns("__pycache__"))
    definitions = {
        "prefect_flows": [{"name": "books", "description": "of canary-vaulted"}],
        "prefect_tasks": [{"name": "buy", "flow_name": "books", "command": "true"}],
        "prefect_deployments": [{"name": "a", "flow_name": "books", "parameters": {"api_token": "canary-token"}}],
    }
    (tmp_path / "hosts").write_text("one vault_plain=canary-vaulted\n")
    text = DEFINITIONS.format(directory=directory, python=sys.executable)
    options = ("-i", tmp_path / "hosts", "-vvv", "--connection=ssh")
    given = {"definitions": definitions, "prefect_show_secrets": show}
    code, said = play(tmp_path, text, *options, environment=over_ssh(tmp_path), **given)
    assert code == 0 and "SSH: EXEC" in said, said
    assert "********" in said or show
    assert [name in said for name in ("canary-token", "canary-vaulted")] == [show] * 2


TOKEN = "ghp%2F0canary0canary"
PLAIN = "ghp/0canary0canary"

CHECKOUT = """
- hosts: all
  gather_facts: false
  tasks:
    - selfhosted.prefect.host_checkout: {repo: "{{ source }}", version: main, dest: "{{ dest }}"}
      delegate_to: localhost
"""

# In the place of git: notes the arguments and the environment of every one that is started.
WATCH = """#!/bin/sh
{ tr '\\0' '\\n' < /proc/$$/cmdline; env; } >> "$WATCHED"
exec "$REAL_GIT" "$@"
"""


class Served(http.server.SimpleHTTPRequestHandler):
    """A repository over HTTP, for the user who knows the token."""

    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(f"ada:{PLAIN}".encode()).decode()
        if self.headers.get("Authorization") == wanted:
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where a repository with one file is served."""
    work, bare = tmp_path / "work", tmp_path / "served" / "x.git"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main", str(work)], check=True)
    (work / "flow.py").write_text("print(1)\n")
    subprocess.run([*git, "-C", str(work), "add", "."], check=True)
    subprocess.run([*git, "-C", str(work), "commit", "--quiet", "--message=one"], check=True)
    subprocess.run([*git, "clone", "--quiet", "--bare", str(work), str(bare)], check=True)
    subprocess.run([*git, "-C", str(bare), "update-server-info"], check=True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Served, directory=bare.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_credential_is_git_s_alone(tmp_path: Path, address: str) -> None:
    """A git repository with a credential in its URL: git gets it, and no one else sees it."""
    watched, temporary = tmp_path / "watched", tmp_path / "tmp"
    temporary.mkdir()
    real = subprocess.check_output(["sh", "-c", "command -v git"], text=True).strip()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(WATCH)
    (tmp_path / "bin" / "git").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "TMPDIR": str(temporary),
        "WATCHED": str(watched),
        "REAL_GIT": real,
    }
    given = {"source": f"http://ada:{TOKEN}@{address}/x.git", "dest": str(tmp_path / "checkout")}
    # Check mode says what would be sent from a checkout, and leaves none.
    code, said = play(tmp_path, CHECKOUT, "--check", "-v", environment=environment, **given)
    assert code == 0, said
    assert not (tmp_path / "checkout").exists() and "clone" in watched.read_text()
    path = re.search(r"path: (\S+)", said)
    assert path is not None and not Path(path[1]).exists()
    # Twice: the second run fetches.
    for _ in range(2):
        code, said = play(tmp_path, CHECKOUT, "-vvv", environment=environment, **given)
        assert code == 0, said
        assert "canary" not in said
    assert (tmp_path / "checkout" / "flow.py").read_text() == "print(1)\n"
    assert "clone" in watched.read_text() and "canary" not in watched.read_text()
    kept = [*(tmp_path / "checkout").rglob("*"), *temporary.rglob("*")]
    assert not [path for path in kept if path.is_file() and b"canary" in path.read_bytes()]
