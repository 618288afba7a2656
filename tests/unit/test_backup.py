"""A backup is whole or not there, and nothing is replaced or emptied that was not backed up."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import textwrap
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.modules import backup
from fake_api import outcome

POSTGRESQL = {"host": "db.example.com", "password": "p@:/%s #'\"", "sslmode": "verify-full", "ca": "/etc/ca.pem"}

# Stand-ins for the client programs: they write down how they were called, and do as the files beside them say.
PROGRAM = """
    #!/bin/sh
    here=$(dirname "$0")
    echo "$(basename "$0") $*" >> "$here/calls"
    env | grep ^PG | sort > "$here/environment"
    case "$(basename "$0") $*" in
        *to_regclass*) cat "$here/tables" ;;
        pg_dump*) echo dumped ;;
        *--list*) cat > /dev/null; cat "$here/listed" ;;
        pg_restore*) cat; exit "$(cat "$here/restored")" ;;
        psql*) cat > "$here/input" && touch "$here/committed"; cat "$here/refused" >&2; [ ! -s "$here/refused" ] ;;
    esac
"""


def rows(file: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(file)) as database:
        return [name for (name,) in database.execute("SELECT name FROM flow ORDER BY name")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with a database of Prefect, which somebody is writing to."""
    with contextlib.closing(sqlite3.connect(tmp_path / "prefect.db")) as database:
        database.executescript("PRAGMA journal_mode = WAL; CREATE TABLE alembic_version (version_num TEXT);")
        database.executescript("CREATE TABLE flow (name TEXT); INSERT INTO flow VALUES ('first');")
    return tmp_path


def sqlite(home: Path, *, check_mode: bool = False, **more: Any) -> dict[str, Any]:
    given = {"sqlite": str(home / "prefect.db"), "directory": str(home / "backups"), "name": "prefect-3.8.8"}
    result: dict[str, Any] = outcome(backup.main, check_mode=check_mode, **given, **more)
    return result


def add(home: Path, flow: str) -> None:
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
        database.execute("INSERT INTO flow VALUES (?)", (flow,))
        database.commit()


def test_a_copy_of_what_is_committed_while_somebody_writes(home: Path) -> None:
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as writer:
        writer.execute("INSERT INTO flow VALUES ('committed')")
        writer.commit()
        writer.execute("INSERT INTO flow VALUES ('not yet')")
        made = sqlite(home)
    path = Path(made["path"])
    assert made["changed"] and rows(path) == ["committed", "first"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in (home / "backups").iterdir()] == [path.name]


def test_check_mode_makes_nothing(home: Path) -> None:
    assert sqlite(home, check_mode=True)["changed"]
    assert not (home / "backups").exists()


def test_the_oldest_go_first(home: Path) -> None:
    directory = home / "backups"
    directory.mkdir()
    old = [directory / f"prefect-3.{minor}.0-2026010{day}T000000Z.sqlite" for minor, day in ((9, 1), (8, 2), (7, 3))]
    mine = directory / "prefect-before-the-great-change.sqlite"
    for path in (*old, mine):
        path.touch()
    made = sqlite(home, keep=2)
    assert made["removed"] == [str(path) for path in old[:2]]
    assert set(directory.iterdir()) == {old[2], mine, Path(made["path"])}


def test_restored_with_what_was_there_kept(home: Path) -> None:
    first = sqlite(home)["path"]
    add(home, "second")
    restored = sqlite(home, state="restored", restore="latest")
    assert restored["restored"] == first
    assert rows(home / "prefect.db") == ["first"]
    assert rows(Path(restored["path"])) == ["first", "second"]
    sqlite(home, state="restored", restore=restored["path"])
    assert rows(home / "prefect.db") == ["first", "second"]


def test_restored_where_there_is_nothing_yet(home: Path) -> None:
    made = Path(sqlite(home)["path"])
    (home / "prefect.db").unlink()
    assert sqlite(home, state="restored", restore=made.name)["path"] is None
    assert rows(home / "prefect.db") == ["first"]


def test_emptied_with_what_was_there_kept(home: Path) -> None:
    made = sqlite(home, state="emptied")
    assert rows(Path(made["path"])) == ["first"]
    assert list(home.glob("prefect.db*")) == []
    assert sqlite(home, state="emptied")["path"] is None


@pytest.mark.parametrize(
    ("restore", "says"),
    [
        ("latest", "the backups in"),
        ("lost.sqlite", "lost.sqlite is not there"),
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


def test_no_database_yet(home: Path) -> None:
    (home / "prefect.db").unlink()
    result = sqlite(home)
    assert result["failed"] and "has the server ever run?" in result["msg"]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the stand-ins, whose database has Prefect's tables."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("pg_dump", "pg_restore", "psql"):
        (directory / name).write_text(textwrap.dedent(PROGRAM).lstrip())
        (directory / name).chmod(0o755)
    for name, text in (("tables", "1\n"), ("listed", "TABLE alembic_version\n"), ("restored", "0"), ("refused", "")):
        (directory / name).write_text(text)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def postgresql(programs: Path, **more: Any) -> dict[str, Any]:
    directory = str(programs.parent / "backups")
    result: dict[str, Any] = outcome(backup.main, directory=directory, name="prefect", **{**POSTGRESQL, **more})
    return result


def test_postgresql_is_dumped_and_its_password_is_nobodys_business(programs: Path) -> None:
    made = postgresql(programs)
    assert Path(made["path"]).read_text() == "dumped\n"
    assert (programs / "environment").read_text().splitlines() == [
        "PGCONNECT_TIMEOUT=15",
        "PGDATABASE=prefect",
        "PGHOST=db.example.com",
        f"PGPASSWORD={POSTGRESQL['password']}",
        "PGPORT=5432",
        "PGSSLMODE=verify-full",
        "PGSSLROOTCERT=/etc/ca.pem",
        "PGUSER=prefect",
    ]
    assert POSTGRESQL["password"] not in (programs / "calls").read_text()


def test_postgresql_is_restored_in_one_transaction(programs: Path) -> None:
    first = postgresql(programs)["path"]
    restored = postgresql(programs, state="restored", restore="latest")
    assert restored["restored"] == first and restored["path"] != first
    sent = (programs / "input").read_text()
    assert sent.startswith('SET ROLE "prefect";\n') and sent.endswith("END $$;\ndumped\n")
    assert "--single-transaction" in (programs / "calls").read_text()


def test_half_a_restore_of_postgresql_is_never_committed(programs: Path) -> None:
    postgresql(programs)
    (programs / "restored").write_text("1")
    result = postgresql(programs, state="restored", restore="latest")
    assert result["failed"] and "pg_restore" in result["msg"]
    assert not (programs / "committed").exists()


def test_what_postgresql_says_is_passed_on(programs: Path) -> None:
    (programs / "refused").write_text("ERROR:  must be owner of table flow_run\n")
    result = postgresql(programs, state="emptied")
    assert result["failed"] and "nothing has changed: ERROR:  must be owner of table flow_run" in result["msg"]


@pytest.mark.parametrize(
    ("state", "failed"), [("present", True), ("emptied", False)], ids=["nothing to back up", "nothing to empty"]
)
def test_an_empty_postgresql(programs: Path, state: str, failed: bool) -> None:
    (programs / "tables").write_text("0\n")
    result = postgresql(programs, state=state)
    assert result.get("failed", False) is failed
    assert "pg_dump" not in (programs / "calls").read_text()


def test_no_client_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = outcome(backup.main, directory=str(tmp_path), name="prefect", **POSTGRESQL)
    assert result["failed"] and "install postgresql-client" in result["msg"]


def test_what_an_earlier_version_kept_is_moved_and_found(home: Path, tmp_path: Path) -> None:
    old = Path(sqlite(home)["path"])
    kept, outside = tmp_path / "kept", tmp_path / "outside.sqlite"
    outside.write_text("another owner's")
    (old.parent / "link-20260101T000000Z.sqlite").symlink_to(outside)
    os.link(outside, old.parent / "hard-20260101T000000Z.sqlite")
    options = {"directory": str(kept), "former": str(old.parent), "state": "restored", "restore": "latest"}
    given = {"sqlite": str(home / "prefect.db"), "name": "prefect-3.8.8"}
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
