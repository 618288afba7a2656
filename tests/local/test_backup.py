"""A backup is whole or absent, and nothing is replaced or emptied that was not backed up. PostgreSQL: tests/api."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import backups, databases, sqlite_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost import backup as backup_program
from ansible_collections.selfhosted.prefect.plugins.modules import host_backup as backup
from fake_api import outcome


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next second come at once to a backup that waits for it, so as to have a name of its own."""
    ahead = timedelta(0)

    def moment() -> str:
        return f"{datetime.now(timezone.utc) + ahead:%Y%m%dT%H%M%SZ}"

    def sleep(_: float) -> None:
        nonlocal ahead
        ahead += timedelta(seconds=1)

    monkeypatch.setattr(backups, "moment", moment)
    monkeypatch.setattr(backups, "time", SimpleNamespace(sleep=sleep))


def rows(file: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(file)) as database:
        return [name for (name,) in database.execute("SELECT name FROM flow ORDER BY name")]


def create(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.executescript("PRAGMA journal_mode = WAL; CREATE TABLE alembic_version (version_num TEXT);")
        database.executescript("INSERT INTO alembic_version VALUES ('27d8f4e1a6c9');")
        database.executescript("CREATE TABLE flow (name TEXT); INSERT INTO flow VALUES ('first');")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with a database of Prefect in WAL mode."""
    create(tmp_path / "prefect.db")
    return tmp_path


def options_of(home: Path, **more: Any) -> dict[str, Any]:
    """Return the options that name a home's database, and more."""
    return {
        "sqlite": str(home / "prefect.db"),
        "directory": str(home / "backups"),
        "instance": "prefect",
        "server": "one.example.com",
        "version": "3.8.8",
        **more,
    }


def sqlite(home: Path, *, check_mode: bool = False, **more: Any) -> dict[str, Any]:
    result: dict[str, Any] = outcome(backup.main, check_mode=check_mode, **options_of(home, **more))
    return result


def add(home: Path, flow: str) -> None:
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
        database.execute("INSERT INTO flow VALUES (?)", (flow,))
        database.commit()


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_copy_of_what_is_committed_while_others_write(home: Path) -> None:
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as writer:
        writer.execute("INSERT INTO flow VALUES ('committed')")
        writer.commit()
        writer.execute("INSERT INTO flow VALUES ('not yet')")
        made = sqlite(home)
    path = Path(made["path"])
    assert made["changed"] and rows(path) == ["committed", "first"]
    manifest = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert manifest["rows"] == {"alembic_version": 1, "flow": 2}
    assert (manifest["revision"], manifest["size"]) == ("27d8f4e1a6c9", path.stat().st_size)
    assert names(home / "backups") == {path.name, f"{path.name}.json"}
    assert {each.stat().st_mode & 0o777 for each in (home / "backups").iterdir()} == {0o600}


def test_check_mode_makes_nothing(home: Path) -> None:
    assert sqlite(home, check_mode=True)["changed"]
    assert not (home / "backups").exists()


def test_names_say_what_a_backup_is_of(home: Path) -> None:
    path = Path(sqlite(home, instance="team_a", server="[fe80::1]")["path"])
    assert path.name.startswith("team%5Fa_%5Bfe80%3A%3A1%5D_prefect_3.8.8_27d8f4e1a6c9_2")
    path.with_name(f"{path.name}.json").unlink()
    assert backups.read(path).origin == backups.Origin(
        instance="team_a", server="[fe80::1]", database="prefect", version="3.8.8"
    )


def test_two_hosts_never_have_the_same_name(home: Path) -> None:
    """Both are fetched into one directory of the controller."""
    made = [Path(sqlite(home, server=server, directory=str(home / server))["path"]) for server in ("a_b", "a-b", "a")]
    stems = {path.name.rpartition("_")[0] for path in made}
    assert len(stems) == 3


def test_the_oldest_go_first_and_those_of_others_stay(home: Path) -> None:
    directory = home / "backups"
    directory.mkdir()
    old = [directory / f"prefect-3.{minor}.0-2026010{day}T000000Z.sqlite" for minor, day in ((9, 1), (8, 2), (7, 3))]
    kept = [
        directory / "prefect-before-the-great-change.sqlite",
        directory / "prefect-2-3.8.8-20200101T000000Z.sqlite",
        directory / "prefect_two.example.com_prefect_3.8.8_27d8f4e1a6c9_20200101T000000Z.sqlite",
        directory / "other_one.example.com_prefect_3.8.8_27d8f4e1a6c9_20200101T000000Z.sqlite",
        directory / "prefect_one.example.com_prefect_3.8.8_27d8f4e1a6c9_20200101T000000Z.dump",
    ]
    for path in (*old, *kept):
        path.touch()
    made = sqlite(home, keep=2)
    assert made["removed"] == [str(path) for path in old[:2]]
    path = Path(made["path"])
    assert names(directory) == {each.name for each in (old[2], path, *kept)} | {f"{path.name}.json"}


def test_restored_with_what_was_there_kept_apart(home: Path) -> None:
    first = sqlite(home)["path"]
    add(home, "second")
    restored = sqlite(home, state="restored", restore="latest")
    assert restored["restored"] == first
    assert rows(home / "prefect.db") == ["first"]
    safety = Path(restored["path"])
    assert safety.parent == home / "backups/safety" and rows(safety) == ["first", "second"]
    assert list(home.glob("prefect.db-*")) == []
    sqlite(home, state="restored", restore=safety.name)
    assert rows(home / "prefect.db") == ["first", "second"]


def test_latest_is_the_same_again(home: Path) -> None:
    first = sqlite(home)["path"]
    add(home, "second")
    assert [sqlite(home, state="restored", restore="latest")["restored"] for _ in range(3)] == [first] * 3
    assert rows(home / "prefect.db") == ["first"]


def test_a_backup_of_an_earlier_version_of_this_collection_is_found(home: Path) -> None:
    made = Path(sqlite(home)["path"])
    made.with_name(f"{made.name}.json").unlink()
    old = made.rename(made.with_name("prefect-3.8.7-20260101T000000Z.sqlite"))
    assert sqlite(home, state="checked", restore="latest")["restored"] == str(old)


def test_restored_where_there_is_nothing_yet(home: Path) -> None:
    made = Path(sqlite(home)["path"])
    (home / "prefect.db").unlink()
    assert sqlite(home, state="restored", restore=made.name)["path"] is None
    assert rows(home / "prefect.db") == ["first"]


def test_a_damaged_database_is_replaced_and_kept_as_it_is(home: Path) -> None:
    sqlite(home)
    (home / "prefect.db").write_bytes(b"damaged " * 1000)
    restored = sqlite(home, state="restored", restore="latest")
    assert rows(home / "prefect.db") == ["first"]
    assert (Path(restored["path"]) / "prefect.db").read_bytes() == b"damaged " * 1000


def test_emptied_with_what_was_there_kept(home: Path) -> None:
    made = sqlite(home, state="emptied")
    assert rows(Path(made["path"])) == ["first"]
    assert list(home.glob("prefect.db*")) == []
    assert sqlite(home, state="emptied")["path"] is None


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


BAD = {
    "damaged": (damage, "its SHA-256 digest is not the one that it had when it was made"),
    "cut": (cut, "bytes, and had"),
    "empty": (lambda path: os.truncate(path, 0), "it is empty"),
    "manifest": (lambda path: Path(f"{path}.json").write_text("{"), "its manifest"),
    "other": (lambda path: None, "is a backup of the instance other, not of prefect"),
    "newer": (lambda path: None, "was made by Prefect 3.9.1, whose schema 3.8.8 does not know: set prefect_version"),
}


def test_secured_is_apart_and_never_the_latest(home: Path) -> None:
    regular = sqlite(home, keep=1)
    assert sqlite(home, state="secured", check_mode=True)["path"] is None
    made = sqlite(home, state="secured", keep=1)
    assert Path(made["path"]).parent == home / "backups" / "safety"
    assert made["revision"] == regular["revision"] == "27d8f4e1a6c9" and not made["removed"]
    assert sqlite(home, state="checked", restore="latest")["restored"] == regular["path"]


def alter(home: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
        database.executescript(sql)


@pytest.mark.parametrize(
    ("since", "usable", "cost"),
    [
        pytest.param("", True, "", id="the old release ran on"),
        pytest.param("ANALYZE;", True, "", id="SQLite has its own tables"),
        pytest.param(
            "UPDATE alembic_version SET version_num = 'b'", False, "of 1 rows, and every", id="the new one ran"
        ),
        pytest.param("ALTER TABLE flow ADD COLUMN tags TEXT", False, "of 1 rows, and every", id="half a migration"),
        pytest.param("DROP TABLE alembic_version", False, "all rows since (", id="damaged"),
    ],
)
def test_an_interrupted_upgrade_is_compared_with_its_backup(home: Path, since: str, usable: bool, cost: str) -> None:
    """What was written after the first run is in the second copy, and the first is not restored for nothing."""
    first = sqlite(home, state="secured")
    add(home, "second")
    alter(home, since)
    second = sqlite(home, state="secured", since=first["path"])
    assert second["since"]["usable"] is usable
    assert cost in second["since"]["cost"] and bool(cost) is bool(second["since"]["cost"])
    if usable:
        sqlite(home, state="restored", restore=second["path"])
        assert rows(home / "prefect.db") == ["first", "second"]
    assert Path(second["path"]).parent == home / "backups" / "safety" and Path(second["path"]).exists()


def test_an_interrupted_upgrade_without_its_backup_or_database(home: Path) -> None:
    first = Path(sqlite(home, state="secured")["path"])
    lost = first.with_name("lost.sqlite")
    assert "cannot be read" in sqlite(home, state="secured", since=str(lost))["since"]["cost"]
    assert not lost.exists()
    damage(first)
    assert "SHA-256" in sqlite(home, state="secured", since=str(first))["since"]["cost"]
    (home / "prefect.db").unlink()
    assert sqlite(home, state="secured", since=str(first))["since"] == {"usable": False, "cost": ""}


def test_space_is_required_for_each_copy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (home / "prefect.db").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * size - 1))
    assert not sqlite(home, state="checked").get("failed")
    assert "are needed there" in sqlite(home, state="checked", copies=2)["msg"]


@pytest.mark.parametrize("state", ["checked", "restored"])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_backup_is_refused_before_anything_changes(home: Path, kind: str, state: str) -> None:
    spoil, says = BAD[kind]
    instance, version = "other" if kind == "other" else "prefect", "3.9.1" if kind == "newer" else "3.8.8"
    path = Path(sqlite(home, instance=instance, version=version)["path"])
    spoil(path)
    result = sqlite(home, state=state, restore=path.name)
    assert result["failed"] and says in result["msg"]
    assert rows(home / "prefect.db") == ["first"] and not (home / "backups/safety").exists()


@pytest.mark.parametrize("spoil", [damage, cut])
def test_a_bad_backup_without_a_manifest_is_refused(home: Path, spoil: Any) -> None:
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
        database.executescript("CREATE INDEX ix_flow ON flow (name); INSERT INTO flow SELECT hex(randomblob(2000));")
    path = Path(sqlite(home)["path"])
    Path(f"{path}.json").unlink()
    spoil(path)
    result = sqlite(home, state="checked", restore=path.name)
    assert result["failed"] and "is no good backup of a SQLite database of Prefect" in result["msg"]


@pytest.mark.parametrize(
    ("restore", "says"),
    [
        ("latest", "has no backup of prefect's prefect yet"),
        ("lost.sqlite", "lost.sqlite does not exist; the backups of prefect in"),
        ("text.sqlite", "text.sqlite is no good backup of a SQLite database of Prefect: file is not a database"),
        ("other.sqlite", "other.sqlite is no good backup of a SQLite database of Prefect: no such table"),
    ],
)
def test_what_is_no_backup_is_refused(home: Path, restore: str, says: str) -> None:
    (home / "backups").mkdir()
    (home / "backups/text.sqlite").write_text("no database, whatever its name says\n" * 100)
    with contextlib.closing(sqlite3.connect(home / "backups/other.sqlite")) as other:
        other.execute("CREATE TABLE flow (name TEXT)")
    result = sqlite(home, state="restored", restore=restore)
    assert result["failed"] and says in result["msg"]
    assert rows(home / "prefect.db") == ["first"]


def test_an_account_that_does_not_exist_yet_is_no_traceback(home: Path) -> None:
    assert sqlite(home, owner="no-such-account")["path"]


def test_another_instances_backup_is_restored_when_asked_for(home: Path) -> None:
    path = sqlite(home, instance="other")["path"]
    add(home, "second")
    sqlite(home, state="restored", restore=path, restore_instance="other")
    assert rows(home / "prefect.db") == ["first"]


def test_the_target_decides_which_version_is_too_new(home: Path) -> None:
    path = sqlite(home, version="3.8.8")["path"]
    assert "set prefect_version to 3.8.8" in sqlite(home, state="checked", restore=path, target="3.5.0")["msg"]
    assert sqlite(home, state="checked", restore=path, version="3.9.1", target="3.8.8")["restored"] == path


def test_listed_with_what_is_known_of_each(home: Path) -> None:
    old = home / "backups/prefect-3.8.7-20260101T000000Z.sqlite"
    old.parent.mkdir()
    shutil.copyfile(home / "prefect.db", old)
    first = Path(sqlite(home)["path"])
    add(home, "second")
    last = Path(sqlite(home)["path"])
    damage(first)
    safety = Path(sqlite(home, state="restored", restore="latest")["path"])
    sqlite(home, instance="other")
    found = sqlite(home, state="listed")
    assert not found["changed"]
    shown = [(each["name"], each["checked"], each["latest"], each["safety"]) for each in found["backups"]]
    assert shown == [
        (old.name, False, False, False),
        (first.name, False, False, False),
        (last.name, True, True, False),
        (safety.name, True, False, True),
    ]
    assert found["backups"][2]["version"] == "3.8.8" and found["backups"][2]["size"] == last.stat().st_size
    assert "digest" in found["backups"][1]["problem"]


def test_no_database_yet(home: Path) -> None:
    (home / "prefect.db").unlink()
    result = sqlite(home)
    assert result["failed"] and "has the server ever run?" in result["msg"]


@pytest.mark.parametrize("state", ["present", "checked", "listed", "restored", "emptied"])
@pytest.mark.parametrize("trouble", ["directory is a file", "database is a directory", "database is locked"])
def test_errors_of_the_system_are_messages(
    home: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, state: str
) -> None:
    path = sqlite(home)["path"]
    more: dict[str, Any] = {"restore": path} if state in {"checked", "restored"} else {}
    with contextlib.ExitStack() as stack:
        if trouble == "directory is a file":
            (home / "file").touch()
            more["directory"] = str(home / "file" / "backups")
        elif trouble == "database is a directory":
            (home / "prefect.db").unlink()
            (home / "prefect.db").mkdir()
        else:
            monkeypatch.setattr(sqlite_files, "PATIENCE", 0)
            other = stack.enter_context(contextlib.closing(sqlite3.connect(home / "prefect.db")))
            other.execute("PRAGMA journal_mode = DELETE")
            other.execute("BEGIN EXCLUSIVE")
        result = sqlite(home, state=state, **more)
    if state in {"present", "restored", "emptied"}:
        assert result["failed"], result
        assert "Traceback" not in result["msg"] and "Errno" not in result["msg"], result["msg"]


RUN = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.selfhosted.prefect.plugins.modules import host_backup as backup
with patch_module_args(json.loads(sys.argv[1])):
    backup.main()
"""


def test_a_restore_that_is_killed_leaves_one_database_or_the_other(home: Path) -> None:
    """Killed at each point at which it opens, renames or removes a file of the database."""
    path = sqlite(home)["path"]
    add(home, "second")
    keep = (home / "prefect.db").read_bytes()
    given = options_of(home, state="restored", restore=path, safety=False)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / ".collections")}
    seen: set[tuple[str, ...]] = set()
    for step in range(1, 200):
        (home / "prefect.db").write_bytes(keep)
        killer = (
            f"import os, signal, sys\nleft = {step}\n"
            "def hook(event, arguments):\n"
            "    global left\n"
            "    if event in ('os.rename', 'os.remove', 'open', 'os.chmod', 'os.chown', 'sqlite3.connect'):\n"
            "        if 'prefect.db' in str(arguments):\n"
            "            left -= 1\n"
            "            if not left:\n"
            "                os.kill(os.getpid(), signal.SIGKILL)\n"
            "sys.addaudithook(hook)\n"
        )
        command = [sys.executable, "-c", killer + RUN, json.dumps(given)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        found = rows(home / "prefect.db")
        assert found in (["first"], ["first", "second"]), f"step {step}: {found}"
        seen.add(tuple(found))
        if ended.returncode != -signal.SIGKILL:
            assert ended.returncode == 0, ended.stdout + ended.stderr
            break
    assert step > 5 and seen == {("first",), ("first", "second")}


def test_what_an_earlier_version_kept_is_moved_and_found(home: Path, tmp_path: Path) -> None:
    made = Path(sqlite(home)["path"])
    Path(f"{made}.json").unlink()
    old = made.rename(made.with_name("prefect-3.8.8-20260102T000000Z.sqlite"))
    kept, outside = tmp_path / "kept", tmp_path / "outside.sqlite"
    outside.write_text("another owner's")
    (old.parent / "link-20260101T000000Z.sqlite").symlink_to(outside)
    os.link(outside, old.parent / "hard-20260101T000000Z.sqlite")
    options = {"directory": str(kept), "former": str(old.parent), "state": "restored", "restore": "latest"}
    given = {"sqlite": str(home / "prefect.db"), "instance": "prefect", "server": "one", "version": "3.8.8"}
    assert outcome(backup.main, check_mode=True, **given, **options | {"restore": str(old)})["moved"] == [old.name]
    assert not kept.exists()
    restored = outcome(backup.main, **given, **options)
    assert (restored["moved"], restored["restored"]) == ([old.name], str(kept / old.name))
    assert {path.name for path in old.parent.iterdir()} == {
        f"{name}-20260101T000000Z.sqlite" for name in ("link", "hard")
    }
    assert (kept / old.name).stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account to be careful of")
def test_a_directory_that_another_account_can_write_is_refused(home: Path, tmp_path: Path) -> None:
    os.chown(home, 1, 1)
    result = sqlite(home)
    assert f"prefect_server_backup_dir: another account can write {home}" in result["msg"]
    assert not (home / "backups").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_database_that_is_gone_comes_back_to_its_account(home: Path) -> None:
    made = Path(sqlite(home)["path"])
    (home / "prefect.db").unlink()
    sqlite(home, state="restored", restore=made.name, owner="daemon")
    assert (home / "prefect.db").stat().st_uid == 1


def test_backups_go_by_number_and_by_age(home: Path) -> None:
    def made(*days: int) -> set[str]:
        return {f"{datetime.now(timezone.utc) - timedelta(days=day):%Y%m%d}" for day in days}

    (home / "backups").mkdir()
    for day in (40, 20, 10, 3, 2):
        time = datetime.now(timezone.utc) - timedelta(days=day)
        origin = backups.Origin(instance="prefect", server="one.example.com", database="prefect", version="3.8.8")
        name = backups.file_name(origin, revision="27d8f4e1a6c9", made=f"{time:%Y%m%dT%H%M%SZ}", suffix=".sqlite")
        shutil.copy(home / "prefect.db", home / "backups" / name)

    def kept(directory: Path) -> set[str]:
        return {name.rpartition("_")[2][:8] for name in names(directory) if name.endswith(".sqlite")}

    assert len(sqlite(home, check_mode=True, keep_days=30)["removed"]) == 1 and len(kept(home / "backups")) == 5
    sqlite(home, keep_days=30)
    assert kept(home / "backups") == made(20, 10, 3, 2, 0)
    sqlite(home, keep_days=15, keep=4)
    assert kept(home / "backups") == made(3, 2, 0) and len(names(home / "backups")) == 6
    # However old the others are, the new one stays.
    sqlite(home, keep=1, keep_days=1)
    assert kept(home / "backups") == made(0)


def test_hosts_of_one_name_share_a_directory_and_nothing_in_it(home: Path) -> None:
    """Both are localhost in their inventories."""
    other = home / "other"
    other.mkdir()
    create(other / "prefect.db")
    add(other, "of the other")
    shared: dict[str, Any] = {"directory": str(home / "shared"), "server": "localhost"}
    before = Path(sqlite(home, **shared)["path"])
    first = sqlite(home, **shared, installation="a" * 32)["path"]
    second = sqlite(other, **shared, installation="b" * 32, keep=1)
    # A backup without an identity counts by its names.
    assert second["removed"] == [str(before)] and Path(first).exists()
    assert json.loads(Path(f"{first}.json").read_text())["origin"]["identity"] == "a" * 32
    assert sqlite(home, **shared, installation="a" * 32, keep=1)["removed"] == [first]
    restored = sqlite(other, **shared, installation="b" * 32, state="restored", restore="latest")
    assert restored["restored"] == second["path"]
    assert rows(other / "prefect.db") == ["first", "of the other"]
    assert len(sqlite(home, **shared, installation="a" * 32, state="listed")["backups"]) == 1


def test_a_host_that_was_installed_again_names_its_older_backups(home: Path) -> None:
    path = Path(sqlite(home, installation="a" * 32)["path"])
    for state in ("checked", "restored"):
        said = sqlite(home, installation="b" * 32, state=state, restore="latest")["msg"]
        assert f"before it was installed again: {path.name}. To restore one, name it" in said
    restored = sqlite(home, installation="b" * 32, state="restored", restore=path.name)
    assert restored["restored"] == str(path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the clock to a day of a time that is in the past."""

    now = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def set_to(day: int) -> None:
        nonlocal now
        now = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=day)

    def sleep(_: float) -> None:
        nonlocal now
        now += timedelta(seconds=1)

    monkeypatch.setattr(backups, "moment", lambda: f"{now:%Y%m%dT%H%M%SZ}")
    monkeypatch.setattr(backups, "time", SimpleNamespace(sleep=sleep))
    return set_to


@pytest.mark.parametrize("wrong", [3650, -20000])
@pytest.mark.parametrize("limits", [{"keep": 7}, {"keep_days": 30}, {"keep": 7, "keep_days": 30}])
def test_one_night_with_a_wrong_clock(
    home: Path, clock: Callable[[int], None], wrong: int, limits: dict[str, Any]
) -> None:
    nights = [0, 1, 2, 3, wrong, 5, 6]
    made: list[Path] = []
    for night, day in enumerate(nights):
        clock(day)
        add(home, f"night {night}")
        result = sqlite(home, **limits)
        made.append(Path(result["path"]))
        assert len(result["removed"]) <= databases.AT_ONCE
        assert all(path.exists() for path in made[-2:])
    assert len([path for path in made if path.exists()]) >= len(nights) - databases.AT_ONCE
    listed = sqlite(home, state="listed")["backups"]
    assert [each["name"] for each in listed] == [path.name for path in made if path.exists()]
    assert {each["name"] for each in listed if each["ahead"]} == ({made[4].name} if wrong > 0 else set())
    restored = sqlite(home, state="restored", restore="latest")
    assert restored["restored"] == str(made[-1])
    assert "night 6" in rows(home / "prefect.db")


def test_the_oldest_go_first_whatever_the_clock_said(home: Path, clock: Callable[[int], None]) -> None:
    made = []
    for day in (0, 1, 3650, 3, 4):
        clock(day)
        made.append(sqlite(home, keep=2)["path"])
    assert {path.name for path in (home / "backups").glob("*.sqlite")} == {Path(path).name for path in made[-2:]}


def test_a_latest_that_is_dated_in_the_future_has_to_be_named(home: Path, clock: Callable[[int], None]) -> None:
    clock(3650)
    path = Path(sqlite(home)["path"])
    clock(1)
    (shown,) = sqlite(home, state="listed")["table"]
    assert shown.endswith("checked, latest, dated in the future")
    for state in ("checked", "restored"):
        said = sqlite(home, state=state, restore="latest")["msg"]
        assert "is dated in the future: a clock was wrong" in said
        assert f"set prefect_server_restore to {path.name}" in said
    assert sqlite(home, state="restored", restore=path.name)["restored"] == str(path)


def test_backups_without_a_number_are_the_older_ones(home: Path, clock: Callable[[int], None]) -> None:
    made = []
    for day in (5, 3, 1):
        clock(day)
        path = Path(sqlite(home)["path"])
        if day > 1:
            note = Path(f"{path}.json")
            content = json.loads(note.read_text())
            del content["number"]
            note.write_text(json.dumps(content))
        made.append(path.name)
    assert [each["name"] for each in sqlite(home, state="listed")["backups"]] == [made[1], made[0], made[2]]


def test_a_shorter_limit_takes_effect_over_some_runs(home: Path, clock: Callable[[int], None]) -> None:
    for day in range(6):
        clock(day)
        sqlite(home)
    removed = []
    for day in range(100, 104):
        clock(day)
        removed.append([path.rpartition("_")[2][6:8] for path in sqlite(home, keep_days=30)["removed"]])
    assert removed == [["01", "02"], ["03", "04"], ["05", "06"], []]


COPY = 'test "$1" = "$PREFECT_BACKUP" && test -s "$1.json" && env > {0}/environment && cp "$1" "$1.json" {0}'


def test_a_good_backup_is_handed_to_the_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_PASSWORD", "hush")
    (home / "away").mkdir()
    command = ["/bin/sh", "-c", COPY.format(home / "away"), "copy"]
    path = Path(sqlite(home, command=command, record=str(home / "record"))["path"])
    assert names(home / "away") == {path.name, f"{path.name}.json", "environment"}
    assert (home / "away" / path.name).read_bytes() == path.read_bytes()
    assert "hush" not in (home / "away" / "environment").read_text()
    noted = json.loads((home / "record").read_text())
    assert noted["name"] == path.name
    assert abs(datetime.fromisoformat(noted["made"]) - datetime.now(timezone.utc)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        pytest.param(["/bin/sh", "-c", "echo no space; exit 7", "s3cret"], "ended with exit code 7", id="fails"),
        pytest.param(["/nonexistent/restic", "s3cret"], "cannot be started: No such file", id="is not installed"),
    ],
)
def test_a_copy_that_fails_is_an_error_and_keeps_the_backup(home: Path, command: list[str], says: str) -> None:
    result = sqlite(home, command=command, record=str(home / "record"))
    assert result["failed"] and f"prefect_server_backup_command: {command[0]} {says}" in result["msg"]
    assert "s3cret" not in result["msg"]
    (shown,) = sqlite(home, state="listed")["backups"]
    assert shown["checked"] and shown["latest"] and shown["name"] in result["msg"]
    assert (home / "record").exists()


def test_a_timer_makes_the_same_backup(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "current").symlink_to("releases/3.9.1-0123456789ab")
    options = options_of(home, release=str(home / "current"), keep=2)
    del options["version"]
    monkeypatch.setenv(databases.OPTIONS, json.dumps(options))
    assert [backup_program.main() for _ in range(3)] == [0, 0, 0]
    listed = sqlite(home, state="listed")["backups"]
    assert [(each["version"], each["checked"], each["latest"]) for each in listed] == [
        ("3.9.1", True, False),
        ("3.9.1", True, True),
    ]
    assert f"The backup is {home}/backups/{listed[-1]['name']}\nRemoved " in capsys.readouterr().out
    (home / "prefect.db").unlink()
    assert backup_program.main() == 1
    assert "has the server ever run?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "environment",
    [
        {"PREFECT_SERVER_DATABASE_PASSWORD": "p%40:/@"},
        {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://u:p%2540%3A%2F%40@h:5432/d?ssl=require"},
    ],
)
def test_a_timer_finds_the_password_in_the_settings_of_the_server(environment: dict[str, str]) -> None:
    assert databases.server_password(environment) == "p%40:/@"


def test_the_tables_of_the_newest_lock_are_known() -> None:
    """That these are all of them, tests/api asks each release."""
    locks = Path(__file__).resolve().parents[2] / "roles/prefect/files/locks"
    versions = [path.stem for path in locks.glob("*.txt") if path.stem[0].isdigit()]
    assert max(versions, key=backups.released) == databases.NEWEST


def test_the_module_and_a_timer_have_the_same_options() -> None:
    options = yaml.safe_load(backup.DOCUMENTATION)["options"]
    required = {name for name, option in options.items() if option.get("required")}
    defaults = {name: option.get("default") for name, option in options.items() if name not in required}
    assert dict(databases.DEFAULTS) == defaults
