"""Secrets that are generated once and kept on the controller."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.selfhosted.prefect.plugins.filter.secrets import secrets_dir
from ansible_collections.selfhosted.prefect.plugins.lookup.secret import LENGTH, secret


def test_made_up_once(tmp_path: Path) -> None:
    directory = tmp_path / "inventory" / ".secrets"
    found = secret(directory, "prefect/api")
    assert len(found) == LENGTH
    assert found.isalnum()
    assert secret(directory, "prefect/api") == found
    assert secret(directory, "prefect/redis") != found


def test_nobody_else_reads_it_and_git_does_not_see_it(tmp_path: Path) -> None:
    secret(tmp_path / ".secrets", "prefect/api")
    assert stat.S_IMODE((tmp_path / ".secrets/prefect/api").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / ".secrets/prefect").stat().st_mode) == 0o700
    assert (tmp_path / ".secrets/.gitignore").read_text() == "*\n"


def test_many_hosts_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: secret(tmp_path, "prefect/api"), range(64)))) == 1
    assert [path.name for path in (tmp_path / "prefect").iterdir()] == ["api"]


def test_one_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "api").write_text(" my own \n")
    assert secret(tmp_path, "api") == " my own "


def test_an_empty_file_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "api").write_text("")
    with pytest.raises(ValueError, match="is empty; put the secret back"):
        secret(tmp_path, "api")


def test_a_run_that_is_killed_leaves_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", killed)
        with pytest.raises(Killed):
            secret(tmp_path, "prefect/api")
    assert not (tmp_path / "prefect/api").exists()
    assert len(secret(tmp_path, "prefect/api")) == LENGTH


PLAY = """
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


MINE = "{{ lookup('selfhosted.prefect.secret', 'x', directory='DIR') }}"


def test_check_mode_writes_nothing_on_the_controller(tmp_path: Path) -> None:
    """Ansible says to a lookup whether it is in check mode; this asks Ansible itself."""
    (tmp_path / "play.yml").write_text(PLAY)
    root = Path(__file__).resolve().parents[2]
    for dry in (True, False):
        before = sorted(tmp_path.rglob("*"))
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("-i", "one,", "--connection=local", str(tmp_path / "play.yml"), *(["--check"] if dry else [])),
                *("-e", json.dumps({"mine": MINE.replace("DIR", str(tmp_path / ".secrets"))})),
            ],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(root / ".collections")},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (sorted(tmp_path.rglob("*")) == before) is dry
    assert {path.name for path in tmp_path.rglob("*")} >= {"x", "api", "ca.key", "db1.crt"}


def test_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = {"inventory_dir": "/srv/one"}, {"inventory_dir": "/srv/other"}
    assert secrets_dir("a", {"a": one}, []) == "/srv/one/.secrets"
    assert secrets_dir("a", {"a": one, "b": other}, ["b", "a"]) == "/srv/other/.secrets"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    for nothing in (None, "None", ""):
        inline = {name: {"inventory_dir": nothing} for name in "ab"}
        assert secrets_dir("a", inline, []) == f"{tmp_path}/.local/share/selfhosted.prefect/a"
        assert secrets_dir("b", inline, ["a"]) == f"{tmp_path}/.local/share/selfhosted.prefect/a"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert secrets_dir("a", inline, []) == "/data/selfhosted.prefect/a"


def test_an_inline_inventory_has_the_same_secrets_in_every_directory(tmp_path: Path) -> None:
    """What Ansible says of the directory of an inventory that is no file, asked of Ansible itself."""
    root, seen = Path(__file__).resolve().parents[2], set()
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        command = [
            *(str(Path(sys.executable).with_name("ansible")), "all", "-i", "a,", "--connection=local", "-m", "debug"),
            *("-a", "msg={{ inventory_hostname | selfhosted.prefect.secrets_dir(hostvars, []) }}"),
        ]
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(root / ".collections")}
        seen.add(subprocess.check_output(command, text=True, cwd=tmp_path / place, env=environment))
    (said,) = seen
    assert "/selfhosted.prefect/a" in said
