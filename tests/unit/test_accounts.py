"""The data of an instance, divided between two accounts, given to one, and what hostile flows left in it."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import ledger as ledgers
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import Ledger
from ansible_collections.selfhosted.prefect.plugins.modules import host_accounts as accounts
from fake_api import outcome

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners are root's to change")

SERVER, FLOWS, OTHER = "daemon", "mail", "bin"
LOST = 61234
"""A number that no account has."""


def put(path: Path, owner: str | int, text: str | None = "") -> Path:
    """Make a file, or a directory where there is no text, with an owner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        path.mkdir(exist_ok=True)
    else:
        path.write_text(text)
    shutil.chown(path, owner)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The data of an instance with one account."""
    home = put(tmp_path / "home", SERVER, None)
    for name in (
        "prefect.db",
        "prefect.db-wal",
        "memo_store.toml",
        "stocks.db",
        "flows/a.py",
        "flows/data/b",
        ".ssh/id",
    ):
        put(home / name, SERVER, name)
    for name in ("flows", "flows/data", ".ssh", "ui"):
        put(home / name, SERVER, None)
    put(home / "backups", "root", None)
    return home


def divide(home: Path, worker: str = FLOWS, **options: Any) -> dict[str, Any]:
    given = {
        "home": str(home),
        "user": SERVER,
        "worker_user": worker,
        "worker_home": f"{home}/worker",
        "operators": "ops",
    }
    result: dict[str, Any] = outcome(accounts.main, **given, **options)
    return result


def owners(home: Path, *names: str) -> set[str]:
    """Return the owners of names below a directory, or of everything below it."""
    paths = [home / name for name in names] or [home, *home.rglob("*")]
    return {pwd.getpwuid(path.lstat().st_uid).pw_name for path in paths}


def manifest(home: Path) -> dict[str, tuple[int, int, str]]:
    """Return the owner and mode of all that is below a directory, and where its links lead."""
    found = {}
    for path in [home, *sorted(home.rglob("*"))]:
        state = path.lstat()
        link = str(path.readlink()) if path.is_symlink() else ""
        found[str(path.relative_to(home))] = (state.st_uid, state.st_mode, link)
    return found


def test_each_account_gets_what_is_for_it(home: Path) -> None:
    result = divide(home)
    assert result["changed"] and result["left"] == [] and sorted(result["moved"]) == [".ssh", "stocks.db"]
    assert owners(home, "prefect.db", "prefect.db-wal", "memo_store.toml", "ui") == {SERVER}
    assert owners(home, "flows", "flows/a.py", "flows/data/b", "worker", "worker/.ssh", "worker/.ssh/id") == {FLOWS}
    assert owners(home, "backups") == {"root"}
    assert (home.owner(), home.group(), stat.S_IMODE(home.stat().st_mode)) == ("root", SERVER, 0o1771)
    for path in (home / "prefect.db", home / "flows", home / "ui", home / "worker", home / "backups"):
        assert not path.stat().st_mode & 0o007


def test_the_path_of_a_file_that_moved_still_leads_to_it(home: Path) -> None:
    divide(home)
    assert (home / "stocks.db").readlink() == Path("worker/stocks.db")
    assert (home / "stocks.db").read_text() == "stocks.db"
    assert not (home / ".ssh").exists()


def test_again_changes_nothing_and_back_is_one_account(home: Path) -> None:
    divide(home)
    divided = manifest(home)
    assert divide(home)["moved"] == []
    assert manifest(home) == divided
    assert divide(home, worker=SERVER)["moved"] == [".ssh"]
    assert owners(home) == {SERVER, "root"}
    assert (home.owner(), stat.S_IMODE(home.stat().st_mode)) == (SERVER, 0o750)
    assert owners(home, "flows/a.py", "worker", ".ssh/id", "stocks.db") == {SERVER, "root"}


def test_another_account_for_the_flows(home: Path) -> None:
    divide(home)
    divide(home, worker=OTHER)
    assert owners(home, "flows/a.py", "worker", "worker/.ssh/id") == {OTHER}
    assert owners(home, "prefect.db") == {SERVER}


@pytest.mark.parametrize("call", ["chown", "rename", "link", "symlink", "fchown", "fchmod", "mkdir"])
@pytest.mark.parametrize("worker", [FLOWS, SERVER])
def test_what_was_cut_anywhere_is_finished(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, worker: str
) -> None:
    if worker == SERVER:
        divide(home)
    whole = tmp_path / "whole"
    subprocess.run(["cp", "--archive", home, whole], check=True)
    divide(whole, worker=worker)
    original, wanted = getattr(os, call), manifest(whole)
    cuts = 0
    for number in range(40):
        seen = 0

        def cut(*arguments: Any, last: int = number, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen > last:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(os, call, cut)
            try:
                divide(home, worker=worker)
            except KeyboardInterrupt:
                cuts += 1
                continue
        break
    assert cuts or call in ("link", "symlink", "mkdir"), "nothing was cut"
    divide(home, worker=worker)
    assert manifest(home) == wanted


def test_data_that_an_earlier_instance_left(home: Path) -> None:
    """Its accounts are gone: the numbers may be those of the new accounts, the other way round."""
    for path in [home, *home.rglob("*")]:
        os.chown(path, LOST, LOST)
    put(home / "prefect.db", FLOWS, "rows")
    put(home / "flows", SERVER, None)
    put(home, "root", None)
    divide(home)
    assert owners(home, "prefect.db", "prefect.db-wal", "ui") == {SERVER}
    assert owners(home, "flows", "flows/a.py", "worker/.ssh/id") == {FLOWS}


def test_what_others_own_stays(home: Path) -> None:
    put(home / "reports/year", OTHER)
    put(home / "reports", OTHER, None)
    put(home / "flows/foreign", OTHER)
    divide(home)
    assert owners(home, "reports", "reports/year", "flows/foreign") == {OTHER}


def test_a_number_without_an_account_may_be_that_of_another_host(home: Path) -> None:
    os.chown(home / "flows/a.py", LOST, LOST)
    divide(home)
    assert (home / "flows/a.py").stat().st_uid == LOST


@pytest.mark.parametrize("target", ["prefect.db", "../outside"])
def test_a_hard_link_gives_nothing_away(home: Path, target: str) -> None:
    put(home.parent / "outside", SERVER)
    (home / "flows/trap").hardlink_to(home / target)
    result = divide(home)
    assert result["left"] == [f"{home}/flows/trap"]
    assert owners(home, target) == {SERVER}


@pytest.mark.parametrize("name", ["prefect.db", "ui"])
def test_a_name_that_is_replaced_meanwhile_gives_nothing_away(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The account that owns a directory can replace a name between any two steps of this module."""
    victim = put(home.parent / "victim", "root", "text")
    victim.chmod(0o644)
    put(home / "ui", SERVER, None).chmod(0o755)
    before = victim.stat()
    real, replaced = accounts.look, list[str]()

    def look(parent: int, looked: str) -> os.stat_result:
        found = real(parent, looked)
        if looked == name:
            os.rename(name, f"{name}.{len(replaced)}", src_dir_fd=parent, dst_dir_fd=parent)
            os.link(victim, name, dst_dir_fd=parent)
            replaced.append(name)
        return found

    monkeypatch.setattr(accounts, "look", look)
    with contextlib.suppress(NotADirectoryError):
        divide(home)
    after = victim.stat()
    assert replaced
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_hard_links_among_flows_belong_to_flows(home: Path) -> None:
    (home / "flows/data/same").hardlink_to(home / "flows/a.py")
    assert divide(home)["left"] == []
    assert owners(home, "flows/a.py", "flows/data/same") == {FLOWS}


def test_no_link_is_followed_and_no_pipe_is_opened(home: Path, tmp_path: Path) -> None:
    outside = put(tmp_path / "victim", SERVER, "text")
    directory = put(tmp_path / "directory", SERVER, None)
    for name, target in (("flows/link", outside), ("top", outside), ("flows/below", directory), ("ui/x", outside)):
        (home / name).symlink_to(target)
    os.mkfifo(home / "flows/pipe.py")
    os.mkfifo(home / "pipe")
    before = (outside.stat().st_mode, outside.owner(), outside.stat().st_nlink, directory.owner())
    divide(home)
    assert (outside.stat().st_mode, outside.owner(), outside.stat().st_nlink, directory.owner()) == before


def test_the_server_keeps_the_files_that_its_settings_name(home: Path) -> None:
    for name in ("tls/client.key", "own.sqlite"):
        put(home / name, SERVER)
    put(home / "tls", SERVER, None)
    divide(home, server_files=[f"{home}/tls/client.key", f"{home}/own.sqlite", "/etc/elsewhere.crt"])
    assert owners(home, "tls", "tls/client.key", "own.sqlite") == {SERVER}


def test_directories_of_flows_elsewhere(home: Path, tmp_path: Path) -> None:
    put(tmp_path / "srv/flows/a.py", SERVER)
    put(tmp_path / "srv/flows/b.py", OTHER)
    put(tmp_path / "srv/flows", SERVER, None)
    divide(home, flows_dirs=[f"{tmp_path}/srv/flows", f"{tmp_path}/none", f"{home}/flows"])
    assert owners(tmp_path / "srv", "flows", "flows/a.py") == {FLOWS}
    assert owners(tmp_path / "srv", "flows/b.py") == {OTHER}


def test_a_bare_host_gets_the_directories(tmp_path: Path) -> None:
    home = tmp_path / "a" / "home"
    assert outcome(
        accounts.main,
        check_mode=True,
        home=str(home),
        user="none-yet",
        worker_user="none-yet",
        worker_home=f"{home}/worker",
        operators="ops",
    )["changed"]
    assert not home.parent.exists()
    divide(home)
    assert [(path.owner(), stat.S_IMODE(path.stat().st_mode)) for path in (home, home / "worker")] == [
        ("root", 0o1771),
        (FLOWS, 0o700),
    ]


@pytest.mark.parametrize(("origin", "moves"), [("created", True), ("adopted", False), (None, False)])
def test_members_of_a_persons_group_stay_and_become_no_operators(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str | None, moves: bool
) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "gpasswd").write_text(f'#!/bin/sh\necho "$*" >> {calls}\n')
    (tmp_path / "gpasswd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    group = grp.getgrgid(pwd.getpwnam(SERVER).pw_gid).gr_name
    given = {"name": str(tmp_path / "ledgers" / "prefect.json"), "opt": str(tmp_path / "opt")}
    with ledgers.opened({"part": "prefect", "adopt": [], **given}, dry=False) as ledger:
        assert ledger is not None
        ledger.record([{"kind": "group", "name": group, "origin": origin}] if origin else [])
    divide(home, members=["alice", SERVER], ledger=given)
    said = calls.read_text().splitlines() if calls.exists() else []
    assert said == (["--add alice ops", f"--delete alice {group}"] if moves else [])
    if moves:
        # The group of two instances stays when one of them is removed.
        monkeypatch.setattr(Ledger, "shared", lambda self, name: True)
        monkeypatch.setattr(ledgers, "exists", lambda kind, name: True)
        with ledgers.opened({"part": "prefect", "adopt": [], **given}, dry=False) as ledger:
            assert ledger is not None
            ledgers.remove_part(ledger, "prefect", purge=False)
        assert calls.read_text().splitlines()[2:] == [f"--add alice {group}"]
