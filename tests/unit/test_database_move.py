"""What becomes of SQLite's values in PostgreSQL, and that nothing is moved unless everything can be."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.postgres import DatabaseError, copied, copy_text
from ansible_collections.selfhosted.prefect.plugins.modules import host_database_move as database_move
from ansible_collections.selfhosted.prefect.plugins.modules.host_database_move import (
    KINDS,
    as_json,
    canonical_json,
    read_json,
)
from fake_api import outcome

FLOW = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
COLUMNS = [
    ["flow", "id", "uuid", "b", "t"],
    ["flow", "name", "varchar", "b", "f"],
    ["flow_run", "id", "uuid", "b", "t"],
    ["flow_run", "flow_id", "uuid", "b", "f"],
    ["flow_run", "parameters", "jsonb", "b", "f"],
    ["flow_run", "started", "timestamptz", "b", "f"],
    ["flow_run", "total_run_time", "interval", "b", "f"],
    ["flow_run", "auto_scheduled", "bool", "b", "f"],
    ["flow_run", "state_type", "state_type", "e", "f"],
]


class Postgres:
    """As much of a session as a move needs; `broken` refuses foreign keys, `forgets` drops a row of each copy."""

    def __init__(self) -> None:
        self.tables: dict[str, list[list[str | None]]] = {"flow": [], "flow_run": []}
        self.committed = self.forgets = self.used = False
        self.broken = ""
        self.said: list[str] = []

    def __enter__(self) -> Postgres:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def patient(self) -> None:
        return None

    def query(self, sql: str) -> list[list[str | None]]:
        self.said.append(sql)
        if "pg_stat_activity" in sql:
            return [["1" if self.used else "0"]]
        if "pg_attribute a join" in sql and "indisprimary" in sql:
            return [list(row) for row in COLUMNS]
        if "pg_constraint" in sql:
            return [["flow_run", "fk_flow", "FOREIGN KEY (flow_id) REFERENCES flow(id)"]]
        if "add constraint" in sql and self.broken and "not valid" not in sql:
            raise DatabaseError("violates", code=self.broken)
        if sql.startswith("truncate"):
            self.tables = {name: [] for name in self.tables}
        self.committed |= sql == "commit"
        return []

    def copy_in(self, sql: str, rows: Iterable[list[str | None]]) -> None:
        name = re.findall(r'"(\w+)"', sql)[0]
        self.tables[name] += [[copied(copy_text(value)) for value in row] for row in rows]
        if self.forgets:
            self.tables[name] = self.tables[name][1:]

    def copy_out(self, sql: str) -> Iterator[list[str | None]]:
        name = re.findall(r'from "(\w+)"', sql)[-1]
        width = 1 if '(select "id" from' in sql else None
        for row in self.tables[name]:
            yield list(row[:width])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "prefect.db"
    with sqlite3.connect(path) as source:
        source.executescript(
            """
            create table alembic_version (version_num varchar(32));
            create table flow (id char(36) primary key, name varchar);
            create table flow_run (id char(36) primary key, flow_id char(36), parameters json, started datetime,
                                   total_run_time datetime, auto_scheduled boolean, state_type varchar(9));
            """
        )
        source.execute("insert into flow values (?, ?)", (FLOW, "tab\tline\nback\\slash \x00 ü"))
        row = (FLOW.upper(), FLOW, '{"a": 1.50}', "2026-11-21 05:00:00.120000", "1970-01-02 00:00:01.5", 1, "COMPLETED")
        source.execute("insert into flow_run values (?, ?, ?, ?, ?, ?, ?)", row)
    return path


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Postgres:
    session = Postgres()
    monkeypatch.setattr(database_move, "connect", lambda params, timeout: session)
    return session


@pytest.fixture
def move(path: Path) -> Callable[..., dict[str, Any]]:
    def call(**options: Any) -> dict[str, Any]:
        given = {"sqlite": str(path), "aside": f"{path}.moved", "host": "db1", "name": "prefect", "user": "prefect"}
        result: dict[str, Any] = outcome(database_move.main, **{**given, **options})
        return result

    return call


def test_all_of_it_is_moved_and_put_aside(move: Callable[..., dict[str, Any]], session: Postgres, path: Path) -> None:
    result = move()
    assert not result.get("failed"), result["msg"]
    assert (result["tables"], result["rows"], result["replaced"]) == ({"flow": 1, "flow_run": 1}, 2, 1)
    assert session.tables["flow"] == [[FLOW, "tab\tline\nback\\slash \ufffd ü"]]
    assert session.tables["flow_run"] == [
        [FLOW, FLOW, '{"a": 1.50}', "2026-11-21 05:00:00.120000+00", "86401500000 microseconds", "t", "COMPLETED"]
    ]
    assert session.committed
    assert not path.exists()
    assert path.with_name("prefect.db.moved").exists()
    assert not move()["changed"]


def test_what_is_not_read_back_is_not_moved(move: Callable[..., dict[str, Any]], session: Postgres, path: Path) -> None:
    session.forgets = True
    assert "flow: what PostgreSQL holds is not what was sent" in move()["msg"]
    assert not session.committed
    assert path.exists()


def test_rows_that_only_the_postgresql_holds_are_not_lost(
    move: Callable[..., dict[str, Any]], session: Postgres, path: Path
) -> None:
    session.tables["flow"] = [["00000000-0000-0000-0000-000000000001", "foreign"]]
    assert "rows that the SQLite does not (flow: 1)" in move()["msg"]
    assert not any(said.startswith("truncate") for said in session.said)
    assert move(replace=True)["changed"]


def test_a_run_that_was_cut_before_the_file_was_put_aside_is_repeated(
    move: Callable[..., dict[str, Any]], session: Postgres, path: Path
) -> None:
    move()
    path.with_name("prefect.db.moved").rename(path)
    assert move()["rows"] == 2


def test_a_foreign_key_that_rows_break_holds_for_new_ones(
    move: Callable[..., dict[str, Any]], session: Postgres
) -> None:
    session.broken = "23503"
    assert move()["unchecked"] == ["flow_run: fk_flow"]
    assert any(said.endswith("not valid") for said in session.said)


def test_a_database_in_use_is_refused(
    move: Callable[..., dict[str, Any]], session: Postgres, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_move, "PATIENCE", 0.1)
    session.used = True
    assert "has other sessions of this user" in move()["msg"]
    session.used = False
    with sqlite3.connect(path, isolation_level=None) as writer:
        writer.execute("begin immediate")
        assert "is in use (database is locked); stop the server" in move()["msg"]


def test_another_schema_is_refused(move: Callable[..., dict[str, Any]], session: Postgres, path: Path) -> None:
    with sqlite3.connect(path) as source:
        source.execute("alter table flow add column labels json")
    assert "schemas of different releases (flow.labels)" in move()["msg"]


def test_a_damaged_file_is_refused(move: Callable[..., dict[str, Any]], session: Postgres, path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    assert "cannot be read: file is not a database" in move()["msg"]


def test_check_mode(move: Callable[..., dict[str, Any]], session: Postgres, path: Path) -> None:
    assert move(_ansible_check_mode=True)["changed"]
    assert session.said == []


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("bool", 0, "f"),
        ("int2", 20, "20"),
        ("float8", 1, "1.0"),
        ("uuid", FLOW.replace("-", "").upper(), FLOW),
        ("timestamptz", "2026-11-21T05:00:00", "2026-11-21 05:00:00+00"),
        ("timestamptz", "2026-11-21 05:00:00+02:00", "2026-11-21 05:00:00+02:00"),
        ("interval", "1970-01-01 00:00:00.000000", "0 microseconds"),
        ("interval", "1969-12-31 23:59:59.000000", "-1000000 microseconds"),
        ("jsonb", '{"a":  NaN, "b": "\\u0000\\ud800"}', '{"a": null, "b": "\\ufffd\\ufffd"}'),
        ("jsonb", 5, "5"),
        ("jsonb", 1.5, "1.5"),
        ("jsonb", float("inf"), "null"),
        ("json", '{"b": 1, "a":  2}', '{"b": 1, "a":  2}'),
    ],
)
def test_values(kind: str, value: Any, text: str) -> None:
    assert KINDS[kind].write(value) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1.0, "b": [1e2]}', '{"b":[100],"a":1}'),
        ('"\\u00e9"', '"é"'),
        ("-0.0", "0"),
        ("1e-7", "0.0000001"),
        ("123456789012345678901234567890.10", "123456789012345678901234567890.1"),
    ],
)
def test_json_that_is_the_same(one: str, other: str) -> None:
    assert canonical_json(read_json(one)) == canonical_json(read_json(other))


@pytest.mark.parametrize(("one", "other"), [("1", "true"), ("null", '"null"'), ("[1,2]", "[2,1]"), ("10", "1")])
def test_json_that_is_not(one: str, other: str) -> None:
    assert canonical_json(read_json(one)) != canonical_json(read_json(other))


def test_digits_that_no_float_has_stay() -> None:
    assert as_json('{"n": 0.1000000000000000055511151231257827}') == '{"n": 0.1000000000000000055511151231257827}'


@pytest.mark.parametrize("value", ["", "plain", "a\tb\nc\\d\r\b\f\v", r"\N", None])
def test_copy_keeps_every_text(value: str | None) -> None:
    assert copied(copy_text(value)) == value
