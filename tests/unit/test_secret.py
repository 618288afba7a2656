"""Secrets that are made up once and kept on the controller."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
