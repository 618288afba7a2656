"""Secrets that are generated once and kept on the controller."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.selfhosted.prefect.plugins.lookup.secret import LENGTH, secret
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.platform import secrets_dir


def test_generated_once(tmp_path: Path) -> None:
    directory = tmp_path / "inventory" / ".secrets"
    found = secret(directory, "prefect/api")
    assert len(found) == LENGTH
    assert found.isalnum()
    assert secret(directory, "prefect/api") == found
    assert secret(directory, "prefect/redis") != found


def test_no_other_account_reads_it_and_git_does_not_see_it(tmp_path: Path) -> None:
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
