"""The ledger: nothing is created that is not in it, and nothing else is removed."""

from __future__ import annotations

import contextlib
import grp
import json
import multiprocessing
import os
import pwd
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import ledger as ledgers
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import safe_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import Ledger, opened
from ansible_collections.selfhosted.prefect.plugins.modules import host_files as files
from ansible_collections.selfhosted.prefect.plugins.modules import host_ledger as ledger
from fake_api import outcome

LOST = 61234
"""A user id that no account has."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def call(main: Callable[[], None], **options: Any) -> dict[str, Any]:
    """Run the `main` of a module and return its result."""
    result: dict[str, Any] = outcome(main, **options)
    return result


def confirm(host: Host, **more: Any) -> None:
    """Do what each module does that has a ledger."""
    with opened({"part": "prefect", **host.given(**more)}, dry=False):
        pass


class Host:
    """A directory that stands for a host, and an instance on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "var/lib/selfhosted-prefect/prefect.json"
        self.opt, self.etc, self.home = root / "opt/prefect", root / "etc/prefect", root / "var/lib/prefect"
        for directory in ("opt", "etc", "var/lib"):
            (root / directory).mkdir(parents=True)
        self.account = pwd.getpwuid(os.geteuid()).pw_name
        self.adopt: list[str] = []

    def given(self, **more: Any) -> dict[str, Any]:
        return {"name": str(self.path), "adopt": self.adopt, "opt": str(self.opt), **more}

    def record(self, *, check_mode: bool = False, probes: tuple[Path, ...] = ()) -> dict[str, Any]:
        entries = [
            {"kind": "directory", "name": str(self.opt), "variable": "prefect_opt_dir"},
            {"kind": "directory", "name": str(self.etc), "variable": "prefect_etc_dir"},
            {
                "kind": "data",
                "name": str(self.home),
                "variable": "prefect_home",
                "owners": [self.account],
                "content": ["prefect.db", "storage", "backups"],
            },
            {"kind": "tree", "name": str(self.opt / "releases"), "variable": "prefect_opt_dir"},
            {"kind": "file", "name": str(self.opt / "uv"), "variable": "prefect_opt_dir"},
            {"kind": "file", "name": str(self.opt / "current"), "variable": "prefect_opt_dir"},
        ]
        return call(
            ledger.main,
            check_mode=check_mode,
            ledger=self.given(),
            entries=entries,
            probes=[str(path) for path in probes],
        )

    def write(self, *paths: Path, state: str = "present", content: str | None = "new\n") -> dict[str, Any]:
        wanted = [{"path": str(path), "mode": "0640", "state": state, "content": content} for path in paths]
        wanted = [{name: value for name, value in file.items() if value is not None} for file in wanted]
        return call(files.main, ledger=self.given(), files=wanted, secrets=[])

    def directory(self, path: Path, mode: str = "0750") -> dict[str, Any]:
        return call(files.main, ledger=self.given(), files=[{"path": str(path), "mode": mode}], secrets=[])

    def install(self) -> None:
        """Do what the role does: record, create, fill."""
        assert not self.record().get("failed")
        self.directory(self.opt, "0755")
        self.directory(self.etc)
        self.directory(self.home)
        (self.opt / "releases/3.8.8-abc/bin").mkdir(parents=True)
        (self.opt / "releases/3.8.8-abc/.proven").touch()
        (self.opt / "releases/3.8.8-abc/bin/prefect").write_text("#!")
        (self.opt / "current").symlink_to("releases/3.8.8-abc")
        (self.opt / "uv").write_bytes(b"\x7fELF")
        self.write(self.etc / "client.env")
        (self.home / "prefect.db").write_text("data")
        self.directory(self.home / "storage")
        (self.home / "storage/deep").mkdir()
        (self.home / "storage/deep/result").write_text("data")

    def remove(self, *, purge: bool = False, check_mode: bool = False, backup_dir: str = "") -> dict[str, Any]:
        more = {"purge": purge, "backup_dir": backup_dir}
        return call(ledger.main, check_mode=check_mode, ledger=self.given(), state="absent", **more)

    def manifest(self) -> dict[str, tuple[object, ...]]:
        """Give type, owner, mode and content of everything."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(self.root.rglob("*")):
            status = path.lstat()
            held = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            link = str(path.readlink()) if path.is_symlink() else ""
            found[str(path)] = (oct(status.st_mode), status.st_uid, status.st_gid, held, link)
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def others(path: Path, *, mode: int = 0o755, owner: int | None = None) -> None:
    """Put a directory of others there, with a file in it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "foreign.txt").write_text("foreign\n")
    path.chmod(mode)
    if owner is not None and os.geteuid() == 0:
        os.chown(path, owner, owner)
        os.chown(path / "foreign.txt", owner, owner)


def test_an_installation_leaves_nothing_behind(host: Host) -> None:
    before = host.manifest()
    host.install()
    assert host.path.is_file()
    done = host.remove(purge=True)
    assert done["changed"] and done["left"] == []
    assert host.manifest() == before


def test_a_second_run_changes_nothing(host: Host) -> None:
    host.install()
    written = host.path.stat().st_ino
    assert not host.record()["changed"]
    assert not host.write(host.etc / "client.env")["changed"]
    assert host.path.stat().st_ino == written
    host.remove(purge=True)
    assert not host.remove(purge=True)["changed"]


def test_check_mode_writes_nothing(host: Host) -> None:
    before = host.manifest()
    assert host.record(check_mode=True)["changed"]
    assert host.manifest() == before
    host.install()
    between = host.manifest()
    assert host.remove(purge=True, check_mode=True)["changed"]
    assert host.manifest() == between


@pytest.mark.parametrize("which", ["opt", "etc", "home"])
def test_a_directory_of_others_is_refused_with_nothing_changed(host: Host, which: str) -> None:
    others(getattr(host, which))
    before = host.manifest()
    done = host.record()
    assert done["failed"]
    variable = {"opt": "prefect_opt_dir", "etc": "prefect_etc_dir", "home": "prefect_home"}[which]
    assert done["msg"].startswith(f"{variable}: {getattr(host, which)} is a directory of ")
    assert "add directories to prefect_adopt" in done["msg"]
    assert host.manifest() == before


def test_one_account_of_others_is_refused_once(host: Host) -> None:
    entries = [{"kind": "user", "name": "daemon", "variable": f"prefect_{name}user"} for name in ("", "worker_")]
    (said,) = outcome(ledger.main, ledger=host.given(), entries=entries)["msg"].splitlines()
    assert said.startswith("prefect_user: the user daemon exists")


def test_everything_that_is_refused_is_said_at_once(host: Host) -> None:
    others(host.opt)
    others(host.etc)
    assert len(host.record()["msg"].splitlines()) == 2


@pytest.mark.parametrize("purge", [False, True])
def test_what_was_adopted_gets_its_owner_and_mode_back(host: Host, *, purge: bool) -> None:
    for path in (host.opt, host.etc, host.home):
        others(path, mode=0o775)
    host.adopt = ["directories"]
    before = host.manifest()
    host.install()
    assert stat.S_IMODE(host.opt.stat().st_mode) == 0o755, "root's files must be in no directory that others write"
    host.remove(purge=purge)
    left = set(host.manifest()) - set(before)
    if purge:
        assert host.manifest() == before
    else:
        assert {Path(path).name for path in left} == {"prefect.db", "storage", "deep", "result"} | {
            "selfhosted-prefect",
            "prefect.json",
        }
        host.remove(purge=True)
        assert host.manifest() == before


@as_root
def test_the_home_of_an_account_keeps_its_owner_while_it_is_in_use(host: Host) -> None:
    daemon = pwd.getpwnam("daemon")
    others(host.home, mode=0o700, owner=daemon.pw_uid)
    host.adopt, host.account = ["directories"], "daemon"
    before = host.home.stat()
    assert not host.record().get("failed")
    host.directory(host.home)
    after = host.home.stat()
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)


@as_root
def test_a_home_in_which_the_account_cannot_write_is_refused(host: Host) -> None:
    others(host.home, owner=pwd.getpwnam("daemon").pw_uid)
    host.adopt, host.account = ["directories"], "bin"
    before = host.manifest()
    assert "where the account bin cannot write" in host.record()["msg"]
    assert host.manifest() == before


def test_an_empty_directory_is_used_and_restored(host: Host) -> None:
    host.home.mkdir(mode=0o755)
    before = host.manifest()
    host.install()
    assert stat.S_IMODE(host.home.stat().st_mode) == 0o750
    host.remove(purge=True)
    assert host.manifest() == before


def test_files_of_others_in_a_created_directory_stay_and_are_named(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.install()
    (host.etc / "notes.txt").write_text("foreign\n")
    done = host.remove(purge=True)
    assert done["left"] == [str(host.etc / "notes.txt")]
    # In a process that has loaded the controller's plugins, Ansible shows a warning at once.
    assert str(host.etc / "notes.txt") in str(done.get("warnings")) + capsys.readouterr().err
    assert (host.etc / "notes.txt").read_text() == "foreign\n"
    assert not (host.etc / "client.env").exists()
    (host.etc / "notes.txt").unlink()
    host.remove(purge=True)
    assert not host.etc.exists() and not host.path.parent.exists()


@as_root
def test_a_purge_takes_the_data_of_the_account_and_no_other(host: Host) -> None:
    host.account = "daemon"
    host.install()
    for path in [host.home, *host.home.rglob("*")]:
        os.chown(path, pwd.getpwnam("daemon").pw_uid, -1)
    (host.home / "root.txt").write_text("foreign\n")
    (host.home / "link").symlink_to("root.txt")
    # What `accounts` leaves where it divides a home.
    (host.home / "moved.csv").symlink_to("worker/moved.csv")
    done = host.remove(purge=True)
    assert done["left"] == [str(host.home / name) for name in ("link", "root.txt")]
    assert sorted(path.name for path in host.home.iterdir()) == ["link", "root.txt"]


def test_data_stays_without_a_purge_and_is_known_later(host: Host) -> None:
    before = host.manifest()
    host.install()
    host.remove()
    assert (host.home / "prefect.db").exists()
    assert stat.S_IMODE(host.home.stat().st_mode) == 0o700
    assert not host.opt.exists() and not host.etc.exists()
    assert not host.remove()["changed"]
    known = Ledger.read(host.path).get("data", host.home)
    assert known is not None and known["uids"] == [os.geteuid()], "its account may go with a package"
    assert not host.record().get("failed"), "data that a removal kept can be used again"
    host.remove(purge=True)
    assert host.manifest() == before


@as_root
@pytest.mark.parametrize("account", ["daemon", ""])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_purge_copies_the_database_first(account: str, *, earlier: bool) -> None:
    # A directory that every account may enter.
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    root.chmod(0o755)
    host = Host(root)
    uid = pwd.getpwnam(account).pw_uid if account else 54321
    try:
        host.install()
        (host.home / "prefect.db").unlink()
        with contextlib.closing(sqlite3.connect(host.home / "prefect.db")) as database:
            database.executescript("pragma journal_mode = wal; create table flow (name); insert into flow values ('a')")
        for path in (host.home, host.home / "prefect.db"):
            os.chown(path, uid, uid)
        if earlier:
            host.remove()
        done = host.remove(purge=True, backup_dir=str(root / "backups/prefect"))
        if account and earlier:
            assert "belongs to daemon, which has the number of an account that was removed" in done["msg"]
            assert (host.home / "prefect.db").exists() and stat.S_IMODE(host.home.stat().st_mode) == 0o700
            return
        (copy,) = done["copies"]
        assert stat.S_IMODE(Path(copy).parent.stat().st_mode) == 0o700
        with contextlib.closing(sqlite3.connect(copy)) as database:
            assert database.execute("select name from flow").fetchall() == [("a",)]
    finally:
        shutil.rmtree(root)


def test_a_link_in_the_data_is_removed_and_not_followed(host: Host) -> None:
    elsewhere = host.root / "elsewhere"
    others(elsewhere)
    host.install()
    (host.home / "storage/link").symlink_to(elsewhere)
    (host.home / "link").symlink_to(elsewhere / "foreign.txt")
    host.remove(purge=True)
    assert (elsewhere / "foreign.txt").read_text() == "foreign\n"
    assert not host.home.exists()


def test_a_file_of_others_is_refused(host: Host) -> None:
    unit = host.root / "etc/prefect-server.conf"
    unit.write_text("foreign\n")
    assert "add files to prefect_adopt" in host.record(probes=(unit,))["msg"]
    assert "add files to prefect_adopt" in host.write(unit)["msg"]
    assert unit.read_text() == "foreign\n"
    assert not host.path.parent.exists()


@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_was_adopted_is_put_back(host: Host, *, link: bool) -> None:
    path = host.root / "etc/site.conf"
    if link:
        path.symlink_to("elsewhere")
    else:
        path.write_text("foreign\n")
        path.chmod(0o604)
    host.adopt = ["files"]
    before = host.manifest()
    assert host.write(path)["changed"]
    assert path.read_text() == "new\n"
    assert host.write(path, content="newer\n")["changed"], "what is kept is the first"
    host.remove()
    assert host.manifest() == before


def test_absent_leaves_a_file_that_is_not_in_the_ledger(host: Host) -> None:
    path = host.root / "etc/site.conf"
    path.write_text("foreign\n")
    assert not host.write(path, state="absent", content=None)["changed"]
    assert path.read_text() == "foreign\n"


def test_absent_of_one_file_removes_it_and_forgets_it(host: Host) -> None:
    path = host.root / "etc/site.conf"
    host.write(path)
    assert host.write(path, state="absent", content=None)["changed"]
    assert not path.exists() and not host.path.parent.exists()


def test_the_directories_above_go_with_what_they_were_made_for(host: Host) -> None:
    before = host.manifest()
    host.write(host.root / "etc/nftables.d/deep/prefect.nft")
    host.remove()
    assert host.manifest() == before


def test_a_directory_of_our_name_that_a_release_needs_is_refused_even_where_others_are_adopted(host: Host) -> None:
    others(host.opt / "releases")
    host.adopt = list(ledgers.ADOPTABLE)
    before = host.manifest()
    assert "needs this name for itself" in host.record()["msg"]
    assert host.manifest() == before


def test_the_entry_is_on_the_disk_before_the_file(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def killed(*_: Any, **__: Any) -> Any:
        seen.append(json.loads(host.path.read_text())["entries"])
        raise KeyboardInterrupt

    monkeypatch.setattr(ledgers, "ensure_all", killed)
    path = host.root / "etc/new/site.conf"
    with pytest.raises(KeyboardInterrupt):
        host.write(path)
    assert {"directory " + str(path.parent), f"file {path}"} <= set(seen[0])
    monkeypatch.undo()
    host.remove()
    assert not host.path.exists()


def test_only_its_owner_reads_the_ledger(host: Host) -> None:
    host.install()
    assert stat.S_IMODE(host.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(host.path.parent.stat().st_mode) == 0o700
    assert json.loads(host.path.read_text())["format"] == ledgers.FORMAT


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "restore it from a backup"),
        (json.dumps({"format": 2, "recognized": False, "parents": [], "entries": {}}), "has the format 2"),
    ],
)
def test_a_ledger_that_cannot_be_read_stops_everything(host: Host, content: str, says: str) -> None:
    host.path.parent.mkdir(parents=True)
    host.path.write_text(content)
    before = host.manifest()
    for done in (host.record(), host.remove(purge=True), host.write(host.etc / "x")):
        assert done["failed"] and says in done["msg"]
    assert host.manifest() == before


def old_installation(host: Host) -> None:
    """Put there what a version without a ledger left."""
    host.install()
    (host.etc / "client.env").write_text("# Ansible managed\nX=1\n")
    host.path.unlink()
    host.path.parent.rmdir()


def test_a_host_of_an_earlier_version_is_recognized(host: Host) -> None:
    before = host.manifest()
    old_installation(host)
    between = host.manifest()
    done = host.record()
    assert not done.get("failed") and done["recognized"] and done["adopted"] == []
    assert {key: value for key, value in host.manifest().items() if "selfhosted-prefect" not in key} == between
    assert not host.record()["changed"]
    host.remove(purge=True)
    assert host.manifest() == before


def test_data_that_an_earlier_version_left_is_recognized(host: Host) -> None:
    if os.geteuid():
        pytest.skip("only root's data is left to root")
    host.home.mkdir(mode=0o700)
    (host.home / "prefect.db").write_text("data")
    assert "add directories to prefect_adopt" in host.record()["msg"]
    # Of an account that was removed.
    os.chown(host.home / "prefect.db", LOST, LOST)
    assert not host.record().get("failed")


def test_what_an_earlier_version_removed_in_part_is_recognized(host: Host) -> None:
    before = host.manifest()
    old_installation(host)
    (host.opt / "releases/3.8.8-abc/.proven").unlink()
    (host.opt / "current").unlink()
    assert host.record()["failed"], "nothing shows who made it"
    code = host.opt / "lib/prefect_info"
    code.mkdir(parents=True)
    (code / "client.py").write_text("# Ansible managed\n")
    assert not host.record().get("failed")
    for path in (code / "client.py", code, code.parent):
        path.unlink() if path.is_file() else path.rmdir()
    host.remove(purge=True)
    assert host.manifest() == before


def account(name: str, *, comment: str) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", 12345, 12345, comment, "/nonexistent", "/usr/sbin/nologin"))


@as_root
@pytest.mark.parametrize(
    ("comment", "recognized"), [("Prefect (prefect)", True), ("Prefect flows (prefect)", True), ("Prefect (x)", False)]
)
def test_accounts_of_a_run_that_was_killed_are_recognized(
    host: Host, monkeypatch: pytest.MonkeyPatch, comment: str, *, recognized: bool
) -> None:
    others(host.etc)
    monkeypatch.setattr(pwd, "getpwall", lambda: [account("prefect", comment=comment)])
    done = host.record()
    assert done.get("failed", False) is not recognized
    assert recognized is host.path.exists()


def test_what_an_earlier_version_used_of_others_is_used_on_and_stays(host: Host) -> None:
    old_installation(host)
    host.home = host.root / "srv/data"
    others(host.home)
    entries: list[dict[str, Any]] = [{"kind": kind, "name": "daemon"} for kind in ("user", "group")]
    (host.home / "backups").mkdir()
    (host.home / "prefect.db").touch()
    for path in (host.home / "backups", host.home / "prefect.db"):
        if os.geteuid() == 0:
            os.chown(path, pwd.getpwnam("daemon").pw_uid, -1)
    content = ["backups", "prefect.db"]
    entries += [{"kind": "data", "name": str(host.home), "owners": ["daemon"], "content": content}]
    done = outcome(ledger.main, ledger=host.given(), entries=entries)
    assert done["adopted"] == ["user daemon", "group daemon", f"data {host.home}"]
    assert not host.write(host.home / "backups", state="absent", content=None)["changed"]
    host.remove(purge=True)
    assert pwd.getpwnam("daemon")
    left = sorted(path.name for path in host.home.iterdir())
    assert left == ["backups", *(["prefect.db"] if os.geteuid() else []), "foreign.txt"]


@as_root
def test_backups_that_an_earlier_version_left_are_recognized(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "BACKUPS", host.root / "backups")
    directory = host.root / "backups/prefect-server"
    directory.mkdir(parents=True, mode=0o700)
    dump = directory / "dump.sql.gz"
    dump.touch()
    entries = [{"kind": "data", "name": str(directory), "owners": ["root"]}]
    assert "add directories to prefect_adopt" in call(ledger.main, ledger=host.given(), entries=entries)["msg"]
    dump.unlink()
    (directory / "prefect-3.5.0-20261001T020000Z.sqlite").touch()
    assert call(ledger.main, ledger=host.given(), entries=entries)["adopted"] == []
    dump.touch()
    host.remove(purge=True)
    assert [path.name for path in directory.iterdir()] == [dump.name]


def test_a_host_is_recognized_where_another_part_began_the_ledger(host: Host) -> None:
    old_installation(host)
    redis = {"name": str(host.path), "part": "redis"}
    wanted = [{"path": str(host.root / "etc/prefect-redis"), "mode": "0755"}]
    assert not outcome(files.main, ledger=redis, files=wanted, secrets=[]).get("failed")
    assert not Ledger.read(host.path, part="redis").recognized
    assert not host.record().get("failed")
    assert host.record()["recognized"]


def test_a_later_part_of_a_new_host_is_not_that_of_an_earlier_version(host: Host) -> None:
    host.install()
    elsewhere = host.root / "srv/flows"
    others(elsewhere)
    entries = [{"kind": "data", "name": str(elsewhere), "variable": "prefect_flows_dir"}]
    done = outcome(ledger.main, ledger=host.given(part="flows"), entries=entries)
    assert "add directories to prefect_adopt" in done["msg"]


def test_a_refusal_records_nothing(host: Host) -> None:
    host.install()
    before = host.manifest()
    others(host.root / "etc/site")
    entries = [{"kind": "group", "name": "prefect-operators"}, {"kind": "user", "name": "prefect"}]
    entries += [{"kind": "directory", "name": str(host.root / "etc/site")}]
    assert outcome(ledger.main, ledger=host.given(part="other"), entries=entries)["failed"]
    assert {path: found for path, found in host.manifest().items() if "site" not in path} == {
        path: found for path, found in before.items() if "site" not in path
    }


def test_files_of_others_on_a_host_of_an_earlier_version_are_refused(host: Host) -> None:
    old_installation(host)
    path = host.root / "etc/site.conf"
    path.write_text("foreign\n")
    assert host.write(path)["failed"]


@pytest.mark.parametrize(("record", "recognized"), [({}, True), ({"ledgers": ["prefect-redis"]}, False)])
def test_a_host_is_recognized_by_packages_of_an_earlier_version(
    host: Host, record: dict[str, Any], *, recognized: bool
) -> None:
    host.path.parent.mkdir(parents=True)
    owners = {"prefect-redis": ["redis-server"], "prefect-blue-proxy": ["nginx"]}
    host.path.with_name("packages.json").write_text(json.dumps({"owners": owners} | record))
    assert host.record()["recognized"] is recognized


@pytest.mark.parametrize("kind", ["user", "group"])
def test_an_account_of_others_is_refused(host: Host, kind: str) -> None:
    entries = [{"kind": kind, "name": "daemon", "variable": "prefect_user"}]
    done = outcome(ledger.main, ledger=host.given(), entries=entries)
    assert done["msg"].startswith("prefect_user: the ") and "add user to prefect_adopt" in done["msg"]
    host.adopt = ["user"]
    assert outcome(ledger.main, ledger=host.given(), entries=entries)["adopted"] == [f"{kind} daemon"]
    host.remove(purge=True)
    assert pwd.getpwnam("daemon")


def test_a_directory_that_two_instances_share_goes_with_the_last(host: Host) -> None:
    before = host.manifest()
    shared = host.root / "etc/nginx/prefect"
    blue = host.given(name=str(host.path.with_name("prefect-blue.json")))
    host.write(shared / "prefect.conf")
    wanted = [{"path": str(shared), "mode": "0755"}, {"path": str(shared / "blue.conf"), "content": "", "mode": "0644"}]
    assert not outcome(files.main, ledger=blue, files=wanted, secrets=[]).get("failed")
    assert host.remove()["left"] == []
    assert (shared / "blue.conf").exists() and not (shared / "prefect.conf").exists()
    assert not host.path.exists()
    outcome(ledger.main, ledger=blue, state="absent")
    assert host.manifest() == before


def test_the_first_of_two_instances_to_go_forgets_the_directory_that_they_share(host: Host) -> None:
    shared = host.root / "etc/nginx/prefect"
    shared.parent.mkdir(parents=True)
    before = host.manifest()
    books = {"green": host.given(), "blue": host.given(name=str(host.path.with_name("prefect-blue.json")))}
    for name, book in books.items():
        wanted = [
            {"path": str(shared), "mode": "0755"},
            {"path": str(shared / f"{name}.conf"), "content": "", "mode": "0644"},
        ]
        assert not outcome(files.main, ledger=book, files=wanted, secrets=[]).get("failed")
    for name, book in reversed(books.items()):
        gone = [{"path": str(shared / f"{name}.conf"), "state": "absent"}, {"path": str(shared), "state": "unused"}]
        assert not outcome(files.main, ledger=book, files=gone, secrets=[]).get("failed")
        assert not Path(book["name"]).exists()
    assert host.manifest() == before


def test_an_account_that_two_instances_share_goes_with_the_last(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []

    def remove_account(_kind: str, name: str, **_options: bool) -> str:
        removed.append(name)
        return ""

    monkeypatch.setattr(ledgers, "remove_account", remove_account)
    blue = host.path.with_name("prefect-blue.json")
    for path in (host.path, blue):
        with opened({"name": str(path), "part": "prefect", "adopt": [], "opt": None}, dry=False) as book:
            assert book is not None
            book.record([{"kind": "user", "name": "daemon", "origin": "created"}])
    host.remove(purge=True)
    assert removed == [] and not host.path.exists()
    outcome(ledger.main, ledger=host.given(name=str(blue)), state="absent")
    assert removed == ["daemon"]


def test_data_of_an_account_that_is_gone_is_known_by_its_number(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows are another part than the account that writes them."""
    monkeypatch.setattr(ledgers, "remove_account", lambda *_, **_options: "")
    uid = pwd.getpwnam(host.account).pw_uid
    flows = host.root / "srv/flows"
    wanted = [{"kind": "data", "name": str(flows), "owners": [host.account]}]
    assert not outcome(ledger.main, ledger=host.given(part="flows"), entries=wanted).get("failed")
    others(flows)
    confirm(host, part="flows")
    with opened(host.given(part="prefect"), dry=False) as book:
        assert book is not None
        book.record([{"kind": "user", "name": host.account, "origin": "created"}])
    host.remove()
    entry = Ledger.read(host.path).get("data", flows)
    assert entry is not None and entry["uids"] == [uid]
    monkeypatch.setattr(pwd, "getpwnam", lambda name: {}[name])
    assert ledgers.member_ids(entry) == set(), "the number may be another account's by now"
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    outcome(ledger.main, ledger=host.given(part="flows"), state="absent", purge=True)
    assert not flows.exists()


def test_a_group_without_accounts_is_used_and_stays(host: Host) -> None:
    taken = {user.pw_gid for user in pwd.getpwall()}
    name = next(group.gr_name for group in grp.getgrall() if not group.gr_mem and group.gr_gid not in taken)
    entries = [{"kind": "group", "name": name}]
    assert outcome(ledger.main, ledger=host.given(), entries=entries)["adopted"] == [f"group {name}"]
    host.remove(purge=True)
    assert grp.getgrnam(name)


def many(path: str, number: int) -> None:
    for index in range(10):
        with opened({"name": path, "part": "prefect", "adopt": [], "opt": None}, dry=False) as book:
            assert book is not None
            book.record([{"kind": "file", "name": f"/nowhere/{number}-{index}", "origin": "created"}])


def test_writers_at_the_same_time_lose_nothing(host: Host) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=many, args=(str(host.path), number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(Ledger.read(host.path).entries) == 40


def test_an_unknown_kind_of_entry_is_left_alone(host: Host) -> None:
    with opened({"name": str(host.path), "part": "prefect", "adopt": [], "opt": None}, dry=False) as book:
        assert book is not None
        book.record([{"kind": "moon", "name": "full", "origin": "created"}])
    host.remove(purge=True)
    assert "moon full" in Ledger.read(host.path).entries


@pytest.fixture
def packaged(host: Host, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a package's unit whose name the instance uses too."""
    unit = host.root / "usr/lib/systemd/system/prefect-server.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    monkeypatch.setattr(ledgers, "UNITS", {"system": [unit.parent], "user": []})
    monkeypatch.setattr(ledgers, "unit_state", lambda path: {"enabled": True, "active": True})
    return unit


def test_a_unit_that_would_hide_a_packages_is_refused(host: Host, packaged: Path) -> None:
    unit = host.root / "etc/systemd/system/prefect-server.service"
    said = host.record(probes=(unit,))
    assert f"prefect_instance: {unit} would hide {packaged}, a file of" in said["msg"]
    assert not host.path.exists()


def test_a_packages_unit_is_used_again(host: Host, packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[Path] = []
    monkeypatch.setattr(ledgers, "resume", lambda path, entry: resumed.append(path) if entry["active"] else None)
    unit = host.root / "etc/systemd/system/prefect-server.service"
    with opened(host.given() | {"part": "prefect", "adopt": ["units"]}, dry=False) as book:
        assert book is not None
        ledgers.expect(book, [("file", str(unit), "prefect_instance")])
        unit.parent.mkdir(parents=True, exist_ok=True)
        unit.write_text("unit")
        assert ledgers.put_back(book, unit)
    assert (unit.exists(), packaged.exists(), resumed) == (False, True, [unit])


def nest(directory: Path, depth: int) -> None:
    """Create nested directories, which no path reaches any more, with a file in the last one."""
    here = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("nested", dir_fd=here)
        below = os.open("nested", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_a_purge_takes_directories_however_deep(host: Host) -> None:
    host.install()
    nest(host.home, 3000)
    done = host.remove(purge=True)
    assert not done.get("failed") and not host.home.exists()


def database(path: Path, owner: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as opened_database:
        opened_database.executescript(f"create table flow (name); insert into flow values ('{path.name}')")
    for each in (path.parent, path):
        os.chown(each, owner, owner)
    return path


@as_root
def test_a_purge_copies_every_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its name is: prefect_database_url may name another one, and flows keep their own."""
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    root.chmod(0o755)
    host, uid = Host(root), 54321
    try:
        host.install()
        (host.home / "prefect.db").unlink()
        for name in ("production.db", "worker/stocks.sqlite", "worker/deep/a-b", "worker/deep-a/b"):
            database(host.home / name, uid)
        broken = host.home / "worker/broken.db"
        broken.write_bytes(b"SQLite format 3\0 and no more")
        os.chown(broken, uid, uid)
        (host.home / "worker/notes.db").write_text("no database")
        os.chown(host.home, uid, uid)
        with opened(host.given(part="prefect"), dry=False) as book:
            assert book is not None
            book.entries[f"data {host.home}"]["uids"] = [uid]
            book.write()
        monkeypatch.setattr(ledger, "MOST_COPIES", 4)
        refused = host.remove(purge=True, backup_dir=str(root / "backups"))
        assert f"{host.home} has more than 4 SQLite databases" in refused["msg"]
        assert (host.home / "production.db").exists()
        monkeypatch.setattr(ledger, "MOST_COPIES", 5)
        done = host.remove(purge=True, backup_dir=str(root / "backups"))
        assert not (host.home / "production.db").exists()
        held = {}
        for copy in done["copies"]:
            try:
                with contextlib.closing(sqlite3.connect(copy)) as opened_database:
                    held[copy] = opened_database.execute("select name from flow").fetchone()[0]
            except sqlite3.DatabaseError:
                held[copy] = Path(copy).read_text()
        assert sorted(held.values()) == ["SQLite format 3\0 and no more", "a-b", "b", "production.db", "stocks.sqlite"]
    finally:
        shutil.rmtree(root)


def test_absent_takes_nothing_that_flows_wrote(host: Host) -> None:
    """A directory of this instance is no proof that what is in it is this collection's."""
    host.install()
    for name in ("tmp/report.csv", "worker/tmp/report.csv", "notes.txt", "storage/deep/result"):
        (host.home / name).parent.mkdir(parents=True, exist_ok=True)
        (host.home / name).write_text("data")
    before = host.manifest()
    for name in ("tmp", "worker/tmp", "notes.txt", "storage/deep"):
        done = host.write(host.home / name, state="absent", content=None)
        assert not done.get("failed") and not done["changed"], name
    assert host.manifest() == before
    # What this collection created goes when it is empty, and what Prefect writes goes by its name.
    host.directory(host.home / "tmp2")
    (host.home / "tmp2/report.csv").write_text("data")
    assert not host.write(host.home / "tmp2", state="absent", content=None)["changed"]
    (host.home / "tmp2/report.csv").unlink()
    (host.home / "empty").mkdir()
    for name in ("tmp2", "empty", "prefect.db"):
        assert host.write(host.home / name, state="absent", content=None)["changed"], name
        assert not (host.home / name).exists()


@pytest.mark.parametrize("earlier", [False, True])
def test_an_environment_in_a_persons_directory(host: Host, *, earlier: bool) -> None:
    """It is put back; the one of an earlier version, which wrote it without a ledger, is this collection's."""
    flows = host.root / "srv/flows"
    others(flows)
    environment = flows / ".env"
    if not earlier:
        environment.write_text("TOKEN=another\n")
    host.adopt = ["directories", "files"]
    entry = {"kind": "data", "name": str(flows), "owners": [host.account], "content": [".env"], "disposable": True}
    assert not call(ledger.main, ledger=host.given(part="definitions"), entries=[entry]).get("failed")
    if earlier:
        environment.write_text("TOKEN=earlier\n")
        host.adopt = ["directories"]
    wanted = [{"path": str(environment), "mode": "0640", "content": "TOKEN=new\n"}]
    done = call(files.main, ledger=host.given(part="definitions"), files=wanted, secrets=[])
    assert not done.get("failed") and environment.read_text() == "TOKEN=new\n"
    call(ledger.main, ledger=host.given(part="definitions"), state="absent")
    assert environment.exists() is not earlier
    assert earlier or environment.read_text() == "TOKEN=another\n"


def test_the_environment_of_definitions_is_in_the_ledger() -> None:
    tasks = yaml.safe_load((Path(__file__).parents[2] / "roles/prefect_definitions/tasks/present.yml").read_text())
    calls = [task["selfhosted.prefect.host_files"] for task in tasks if "selfhosted.prefect.host_files" in task]
    assert calls and all("ledger" in call for call in calls)


def other_instance(host: Host) -> Host:
    """Return another instance on the same host, with the directories of the first."""
    blue = Host.__new__(Host)
    blue.__dict__ |= vars(host)
    blue.path = host.path.with_name("prefect-blue.json")
    return blue


def record(host: Host, *entries: dict[str, Any]) -> dict[str, Any]:
    return call(ledger.main, ledger=host.given(), entries=list(entries))


@as_root
def test_a_purge_leaves_files_of_others_in_a_directory_of_the_data(host: Host) -> None:
    host.install()
    foreign = host.home / "storage/foreign"
    foreign.touch()
    os.chown(foreign, LOST, LOST)
    assert host.remove(purge=True)["left"] == [str(host.home / "storage")]
    assert foreign.exists() and not (host.home / "prefect.db").exists()


@as_root
def test_what_is_mounted_in_the_data_stays(host: Host) -> None:
    host.install()
    shared = host.home / "storage/deep"
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(shared)], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount")
    try:
        (shared / "result").touch()
        assert host.remove(purge=True)["left"] == [str(host.home / "storage")]
        assert (shared / "result").exists()
        with pytest.raises(safe_files.UnsafePathError, match="has something mounted"):
            safe_files.remove(shared)
        assert (shared / "result").exists()
    finally:
        subprocess.run(["umount", str(shared)], check=True)


def test_what_two_instances_share_goes_with_the_last(host: Host) -> None:
    before = host.manifest()
    blue, shared = other_instance(host), host.root / "srv/shared"
    entries: list[dict[str, Any]] = [
        {"kind": "tree", "name": str(shared / "releases")},
        {"kind": "file", "name": str(shared / "uv")},
        {"kind": "data", "name": str(shared / "flows"), "owners": [host.account]},
    ]
    record(host, *entries)
    (shared / "releases/one").mkdir(parents=True)
    (shared / "uv").touch()
    (shared / "flows").mkdir()
    (shared / "flows/flow.py").touch()
    confirm(host)
    assert not record(blue, *entries).get("failed")
    made = host.manifest()
    blue.remove(purge=True)
    assert {path: found for path, found in made.items() if "selfhosted" not in path}.items() <= host.manifest().items()
    host.remove(purge=True)
    assert host.manifest() == before


def test_a_release_of_another_instance_does_not_make_a_host_recognized(host: Host) -> None:
    host.install()
    others(host.root / "srv/data")
    refused = record(other_instance(host), {"kind": "data", "name": str(host.root / "srv/data"), "owners": ["root"]})
    assert "add directories to prefect_adopt" in refused["msg"]


def test_a_file_that_an_administrator_put_beside_the_instance_s_own_is_not_overwritten(host: Host) -> None:
    host.install()
    path = host.etc / "worker.env"
    path.write_text("foreign\n")
    assert "add files to prefect_adopt" in host.write(path)["msg"]
    assert path.read_text() == "foreign\n"


def test_what_the_owner_of_an_adopted_home_creates_later_stays(host: Host) -> None:
    host.adopt = ["directories"]
    others(host.home)
    host.record()
    before = host.manifest()
    (host.home / "backups").mkdir()
    (host.home / "backups/photos").touch()
    host.directory(host.home / "storage")
    (host.home / "storage/result").touch()
    host.remove(purge=True)
    assert (host.home / "backups/photos").exists() and not (host.home / "storage").exists()
    assert {name for name in before if "prefect.json" not in name} - set(host.manifest()) == {
        str(step) for step in (host.path.parent, *host.path.parent.parents) if str(step) in before and not step.exists()
    }


@as_root
def test_a_directory_in_an_adopted_home_keeps_its_owner_who_writes_there(host: Host) -> None:
    host.adopt = ["directories"]
    others(host.home)
    others(host.home / "storage", mode=0o775, owner=LOST)
    host.record()
    before = host.manifest()
    assert not host.directory(host.home / "storage").get("failed")
    name = str(host.home / "storage")
    assert host.manifest()[name] == before[name]
    host.remove(purge=True)
    assert host.manifest()[name] == before[name] and (host.home / "storage/foreign.txt").exists()


@as_root
def test_a_purge_knows_the_accounts_that_wrote_before(host: Host) -> None:
    flows = host.root / "srv/flows"
    entry = {"kind": "data", "name": str(flows)}
    record(host, entry | {"owners": ["daemon"]})
    flows.mkdir(parents=True)
    (flows / "old.py").touch()
    confirm(host)
    os.chown(flows / "old.py", pwd.getpwnam("daemon").pw_uid, -1)
    record(host, entry | {"owners": ["bin"]})
    host.remove(purge=True)
    assert not (flows / "old.py").exists()


def test_only_the_comment_of_this_instance_shows_that_an_account_is_its_own(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {
        "etl": account("etl", comment="Prefect (Acme data team)"),
        "own": account("own", comment="Prefect (prefect)"),
    }
    monkeypatch.setattr(pwd, "getpwnam", known.__getitem__)
    refused = record(host, {"kind": "user", "name": "etl", "variable": "prefect_user"})
    assert "add user to prefect_adopt" in refused["msg"]
    assert record(host, {"kind": "user", "name": "own", "variable": "prefect_user"})["adopted"] == []


def test_a_removal_that_was_killed_starts_the_unit_that_it_put_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = host.root / "etc/systemd/system/prefect-server.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    host.adopt = ["units"]
    called: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        called.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    def killed(*_given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", run)
    host.write(unit)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ledgers, "resume", killed)
        host.remove(purge=True)
    assert unit.read_text() == "[Service]\n"
    called.clear()
    host.remove(purge=True)
    assert [command[3:] for command in called] == [[], ["enable", unit.name], ["start", unit.name]]


def test_what_another_owner_creates_after_a_run_that_failed_stays(host: Host) -> None:
    """A run that recorded what it was about to create, and ended there, owns none of these names."""
    host.record()
    others(host.etc)
    others(host.home / "storage")
    made = {path: found for path, found in host.manifest().items() if "selfhosted" not in path}
    assert "add directories to prefect_adopt" in host.record()["msg"]
    host.remove(purge=True)
    assert made.items() <= host.manifest().items()


@pytest.mark.parametrize(("member", "comment"), [("alice", "Alice"), ("nightly", "Prefect flows (prefect)")])
def test_a_group_with_members_that_appears_after_a_run_that_failed_is_another_owners(
    host: Host, monkeypatch: pytest.MonkeyPatch, member: str, comment: str
) -> None:
    record(host, {"kind": "group", "name": "analysts", "variable": "prefect_user"})
    analysts = grp.struct_group(("analysts", "x", 54321, [member]))
    monkeypatch.setattr(grp, "getgrnam", {"analysts": analysts}.__getitem__)
    monkeypatch.setattr(pwd, "getpwnam", {member: account(member, comment=comment)}.__getitem__)
    monkeypatch.setattr(pwd, "getpwall", lambda: [account(member, comment=comment)])
    again = record(host, {"kind": "group", "name": "analysts", "variable": "prefect_user"})
    assert bool(again.get("failed")) is (member == "alice")


def test_a_directory_that_exists_only_for_a_time_is_recorded_once(host: Host) -> None:
    scratch = {"kind": "tree", "name": str(host.root / "var/lib/.selfhosted-prefect-prefect-proof")}
    assert record(host, scratch)["changed"] and not record(host, scratch)["changed"]
    assert not host.record(check_mode=True)["adopted"]
    Path(scratch["name"]).mkdir()
    Path(scratch["name"], "prefect.db").touch()
    assert not record(host, scratch).get("failed")
    host.remove(purge=True)
    assert not Path(scratch["name"]).exists()


def test_what_a_run_that_was_killed_created_is_its_own(host: Host) -> None:
    """The next run knows it although the first did not confirm it."""
    before = host.manifest()
    host.record()
    for directory in (host.opt, host.opt / "releases", host.etc, host.home):
        directory.mkdir()
    (host.opt / "uv").touch()
    assert not host.record().get("failed")
    host.remove(purge=True)
    assert host.manifest() == before


def test_a_part_whose_role_no_longer_runs_is_named(host: Host) -> None:
    host.install()
    redis = host.root / "etc/prefect-redis/redis.conf"
    wanted = [{"path": str(redis), "mode": "0640", "content": "port 6379\n"}]
    call(files.main, ledger={"name": str(host.path), "part": "redis"}, files=wanted, secrets=[])
    assert host.remove(purge=True)["remaining"] == {"redis": str(redis)}
    assert redis.exists()


USERDEL = """
set -e
cp -a /etc {copy}
mount --bind {copy} /etc
groupadd --system before
useradd --system --no-create-home --gid before before
useradd --system --no-create-home --gid before colleague
{python} {script}
id --name --group colleague
! getent passwd before
"""


@as_root
def test_the_group_of_another_owner_survives_an_account_of_the_same_name(tmp_path: Path) -> None:
    script = tmp_path / "remove.py"
    script.write_text(
        "from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import remove_account\n"
        'assert remove_account("user", "before", keeps_group=True) == ""\n'
    )
    steps = USERDEL.format(copy=tmp_path / "etc", python=sys.executable, script=script)
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", steps], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout) == (0, "before\n"), done.stderr
    shutil.rmtree(tmp_path / "etc")
