#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Move a SQLite database of Prefect to a PostgreSQL database of the same schema, and verify the copy."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_database_move
short_description: Move Prefect's SQLite database to PostgreSQL and verify it
description:
  - Copies every table in one transaction, reads it back, and compares row counts and digests of the content. On an
    error, PostgreSQL does not change. After the copy is verified, the SQLite file is moved aside, unchanged.
  - Both databases need the schema of the same release, created by C(prefect server database upgrade). Stop all clients
    of both first.
  - The module fails if PostgreSQL contains rows that SQLite does not, unless O(replace) allows to lose them. A database
    that an earlier run filled, and that was not used since, is filled again.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
extends_documentation_fragment: selfhosted.prefect.postgres
options:
  sqlite:
    description: File of the SQLite database. If it does not exist, the module does nothing.
    type: path
    required: true
  aside:
    description: File to which the SQLite database is moved afterwards.
    type: path
    required: true
  replace:
    description: Whether rows that only PostgreSQL contains may be lost.
    type: bool
    default: false
attributes:
  check_mode:
    description: Reports whether a database would be moved.
    support: full
"""

EXAMPLES = r"""
- name: Move the database
  selfhosted.prefect.host_database_move:
    sqlite: /var/lib/prefect/prefect.db
    aside: /var/lib/prefect/backups/prefect.db
    host: db1
    name: prefect
    user: prefect
    password: "{{ vault_database_password }}"
"""

RETURN = r"""
tables:
  description: Number of rows of each table that is not empty.
  returned: when moved
  type: dict
rows:
  description: Number of rows of all tables.
  returned: when moved
  type: int
replaced:
  description: Number of values with characters that PostgreSQL cannot store (NUL, lone surrogates), replaced by U+FFFD.
  returned: when moved
  type: int
unchecked:
  description: Foreign keys that rows of SQLite violate. PostgreSQL enforces them only for new rows.
  returned: when moved
  type: list
  elements: str
"""

import contextlib
import datetime
import hashlib
import json
import math
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import sqlite_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.postgres import (
    LOGIN,
    Connection,
    DatabaseError,
    connect,
    explain,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.safe_files import AccountError, as_account, state

SCHEMA_TABLE = "alembic_version"
PATIENCE = 5.0
"""Seconds to wait for another process to finish writing to the SQLite database."""
LONGEST = 86400.0
"""Maximum duration of a move in seconds."""
FOREIGN_KEY_BROKEN = "23503"
EPOCH = datetime.date(1970, 1, 1)

COLUMNS = """
select c.relname, a.attname, t.typname, t.typtype,
       a.attnum = any(coalesce((select i.indkey::int2[] from pg_index i
                                 where i.indrelid = c.oid and i.indisprimary), '{}'))
  from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_type t on t.oid = a.atttypid
 where c.relkind in ('r', 'p') and not c.relispartition and c.relnamespace = current_schema()::regnamespace
   and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
 order by c.relname, a.attnum
"""

FOREIGN_KEYS = """
select conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid)
  from pg_constraint where contype = 'f' and connamespace = current_schema()::regnamespace order by 1, 2
"""

SEQUENCES = """
select s.oid::regclass::text, d.refobjid::regclass::text, quote_ident(a.attname)
  from pg_class s join pg_depend d on d.objid = s.oid and d.deptype in ('a', 'i')
  join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
 where s.relkind = 'S' and s.relnamespace = current_schema()::regnamespace
"""

OTHERS = """
select count(*) from pg_stat_activity
 where datname = current_database() and usename = current_user and pid <> pg_backend_pid()
"""


class MoveError(Exception):
    """Nothing was moved; the message names the variable and the fix."""


def cleaned(text: str) -> str:
    """Return a text without the characters that PostgreSQL cannot store."""
    return re.sub(r"[\x00\ud800-\udfff]", "\ufffd", text)


def cleaned_json(value: Any) -> Any:
    """Return a JSON value without the characters that PostgreSQL cannot store."""
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, list):
        return [cleaned_json(item) for item in value]
    if isinstance(value, dict):
        return {cleaned(key): cleaned_json(item) for key, item in value.items()}
    return value


def number(value: Decimal) -> str:
    """Return the canonical spelling of a number."""
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    stripped = text.rstrip("0")
    if not stripped:
        return "0"
    return f"{'-' if sign else ''}{stripped}e{int(exponent) + len(text) - len(stripped)}"


def canonical_json(value: Any) -> str:
    """Return the canonical spelling of a JSON value: keys in order, numbers by their value."""
    if isinstance(value, Decimal):
        return number(value)
    if isinstance(value, list):
        return f"[{','.join(map(canonical_json, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{canonical_json(value[key])}" for key in sorted(value)) + "}"
    return json.dumps(value)


def read_json(text: str) -> Any:
    # PostgreSQL's JSON has no NaN and no Infinity, and Prefect stores null instead.
    return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=lambda _: None)


def as_json(value: Any) -> str:
    """Return a value of a JSON column as PostgreSQL reads it. SQLite stores a number in it as a number."""
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else "null"
    text = str(value)
    # Unchanged, with every digit, unless it contains something that PostgreSQL rejects.
    if re.search(r"NaN|Infinity|\\u0000|\\u[dD][89a-fA-F]|[\x00\ud800-\udfff]", text):
        return json.dumps(cleaned_json(json.loads(text, parse_constant=lambda _: None)))
    return text


def as_timestamp(value: Any) -> str:
    """Return SQLite's timestamp, which is UTC without a time zone, as PostgreSQL reads it."""
    text = str(value).replace("T", " ")
    return text if re.search(r"(Z|[+-]\d\d(:?\d\d)?)$", text[10:]) else f"{text}+00"


def as_interval(value: Any) -> str:
    """Return SQLAlchemy's interval, which is stored as a time after the epoch, as PostgreSQL reads it."""
    found = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?", str(value))
    if found is None:
        raise MoveError(f"{value!r} is no interval")
    year, month, day, hours, minutes, seconds = map(int, found.groups()[:6])
    days = (datetime.date(year, month, day) - EPOCH).days
    micros = int((found[7] or "0").ljust(6, "0"))
    return f"{((days * 24 + hours) * 60 + minutes) * 60_000_000 + seconds * 1_000_000 + micros} microseconds"


def canonical_timestamp(text: str) -> str:
    seconds, _, fraction = text.removesuffix("+00").partition(".")
    fraction = fraction[:6].rstrip("0")
    return f"{seconds}.{fraction}" if fraction else seconds


def same(text: str) -> str:
    return text


@dataclass(frozen=True)
class Kind:
    """A PostgreSQL type: how to write SQLite's value for it, and how to spell canonically what is read back."""

    write: Callable[[Any], str]
    canonical: Callable[[str], str] = same


KINDS = {
    "bool": Kind(lambda value: "t" if int(value) else "f"),
    "int2": Kind(lambda value: str(int(value))),
    "int4": Kind(lambda value: str(int(value))),
    "int8": Kind(lambda value: str(int(value))),
    "float4": Kind(lambda value: repr(float(value)), lambda text: repr(float(text))),
    "float8": Kind(lambda value: repr(float(value)), lambda text: repr(float(text))),
    "interval": Kind(as_interval),
    "json": Kind(as_json, lambda text: canonical_json(read_json(text))),
    "jsonb": Kind(as_json, lambda text: canonical_json(read_json(text))),
    "timestamptz": Kind(as_timestamp, canonical_timestamp),
    "uuid": Kind(lambda value: str(uuid.UUID(value))),
    "text": Kind(lambda value: cleaned(value if isinstance(value, str) else str(value))),
}
"""By the names of PostgreSQL's types; all others are text."""


@dataclass
class Table:
    """A PostgreSQL table: its columns with their types, and its primary key."""

    name: str
    columns: dict[str, str] = field(default_factory=dict)
    key: list[str] = field(default_factory=list)

    @property
    def kinds(self) -> list[Kind]:
        return [KINDS.get(kind, KINDS["text"]) for kind in self.columns.values()]

    @property
    def names(self) -> str:
        return ", ".join(map(identifier, self.columns))


class Digest:
    """A digest of rows that does not depend on their order."""

    def __init__(self) -> None:
        self.rows, self._sum = 0, 0

    def add(self, row: list[str | None]) -> None:
        self.rows += 1
        self._sum += int.from_bytes(hashlib.sha256(repr(row).encode()).digest(), "big")

    @property
    def value(self) -> tuple[int, int]:
        return self.rows, self._sum % (1 << 256)


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def target_tables(session: Connection) -> dict[str, Table]:
    """Return the tables of Prefect's schema."""
    tables: dict[str, Table] = {}
    for row in session.query(COLUMNS):
        name, column, kind, sort, in_key = (value or "" for value in row)
        if name == SCHEMA_TABLE:
            continue
        table = tables.setdefault(name, Table(name))
        table.columns[column] = "text" if sort == "e" else kind
        if in_key == "t":
            table.key.append(column)
    return tables


def source_columns(source: sqlite3.Connection) -> dict[str, list[str]]:
    """Return the columns of each of Prefect's tables."""
    names = [name for (name,) in source.execute("select name from sqlite_master where type = 'table'")]
    return {
        name: [row[1] for row in source.execute(f"pragma table_xinfo({identifier(name)})") if row[6] == 0]
        for name in names
        if name != SCHEMA_TABLE and not name.startswith("sqlite_")
    }


def check_schemas(source: dict[str, list[str]], target: dict[str, Table]) -> None:
    """Raise MoveError if the schemas differ."""
    if not target:
        raise MoveError("prefect_database_name: the PostgreSQL database has no tables of Prefect's; upgrade it first")
    in_source = {f"{name}.{column}" for name, columns in source.items() for column in columns}
    in_target = {f"{table.name}.{column}" for table in target.values() for column in table.columns}
    if differ := sorted(in_source ^ in_target):
        raise MoveError(
            "prefect_version: the SQLite and the PostgreSQL have the schemas of different releases "
            f"({', '.join(differ[:5])}{', ...' if len(differ) > 5 else ''}); start the server once on the SQLite with "
            "the release that is installed, and move then"
        )


def key_of(table: Table, row: tuple[Any, ...]) -> tuple[str, ...]:
    kinds = dict(zip(table.columns, table.kinds, strict=True))
    return tuple(kinds[name].write(value) for name, value in zip(table.key, row, strict=True))


def check_target(source: sqlite3.Connection, session: Connection, tables: dict[str, Table]) -> None:
    """Raise MoveError if the target contains rows that the source does not."""
    found: dict[str, int] = {}
    for table in tables.values():
        names = ", ".join(map(identifier, table.key))
        there = {
            tuple(row) for row in session.copy_out(f"copy (select {names} from {identifier(table.name)}) to stdout")
        }
        if there:
            rows = source.execute(f"select {names} from {identifier(table.name)}")
            there -= {key_of(table, row) for row in rows}
            found |= {table.name: len(there)} if there else {}
    if found:
        listed = ", ".join(f"{name}: {count}" for name, count in sorted(found.items()))
        raise MoveError(
            f"prefect_database_name: the PostgreSQL database holds rows that the SQLite does not ({listed}); name an "
            "empty one, or set prefect_server_move_replace to true to lose them"
        )


def was_replaced(text: str | None, value: Any) -> bool:
    """Return whether a value lost characters that PostgreSQL cannot store."""
    return text is not None and any(mark in text and mark not in str(value) for mark in ("\ufffd", r"\ufffd"))


def copy(source: sqlite3.Connection, session: Connection, table: Table) -> tuple[tuple[int, int], int]:
    """Copy a table; return the digest of the rows sent, and the number of values with replaced characters."""
    digest, replaced = Digest(), 0
    kinds = table.kinds

    def rows() -> Iterator[list[str | None]]:
        nonlocal replaced
        for row in source.execute(f"select {table.names} from {identifier(table.name)}"):
            try:
                texts = [None if value is None else kind.write(value) for kind, value in zip(kinds, row, strict=True)]
            except (ValueError, MoveError) as error:
                values = dict(zip(table.columns, row, strict=True))
                raise MoveError(
                    f"{table.name}: the row with the id {values.get('id')} cannot be read: {error}"
                ) from error
            replaced += sum(map(was_replaced, texts, row))
            digest.add(
                [None if text is None else kind.canonical(text) for kind, text in zip(kinds, texts, strict=True)]
            )
            yield texts

    session.copy_in(f"copy {identifier(table.name)} ({table.names}) from stdin", rows())
    return digest.value, replaced


def read_back(session: Connection, table: Table) -> tuple[int, int]:
    """Return the digest of a table's rows."""
    digest = Digest()
    expressions = ", ".join(
        f"((extract(epoch from {identifier(name)}) * 1000000)::bigint)::text || ' microseconds'"
        if kind == "interval"
        else identifier(name)
        for name, kind in table.columns.items()
    )
    for row in session.copy_out(f"copy (select {expressions} from {identifier(table.name)}) to stdout"):
        digest.add(
            [None if text is None else kind.canonical(text) for kind, text in zip(table.kinds, row, strict=True)]
        )
    return digest.value


def restore_foreign_keys(session: Connection, keys: list[list[str | None]]) -> list[str]:
    """Recreate foreign keys; return those that rows violate, which then apply only to new rows."""
    unchecked = []
    for table, name, definition in keys:
        session.query("savepoint foreign_key")
        try:
            session.query(f"alter table {table} add constraint {name} {definition}")
        except DatabaseError as error:
            if error.code != FOREIGN_KEY_BROKEN:
                raise
            session.query("rollback to savepoint foreign_key")
            session.query(f"alter table {table} add constraint {name} {definition} not valid")
            unchecked.append(f"{table}: {name}")
        session.query("release savepoint foreign_key")
    return unchecked


def move(source: sqlite3.Connection, session: Connection, *, replace: bool) -> dict[str, Any]:
    """Move all tables in one transaction, and commit it only after reading everything back. Raises MoveError."""
    session.query("set statement_timeout = 0; set timezone = 'UTC'; set datestyle = 'ISO'; set extra_float_digits = 1")
    if session.query(OTHERS) != [["0"]]:
        raise MoveError(
            "prefect_database_name: the PostgreSQL database has other sessions of this user; stop every "
            "server that uses it"
        )
    session.query("begin")
    tables = target_tables(session)
    check_schemas(source_columns(source), tables)
    if not replace:
        check_target(source, session, tables)
    keys = session.query(FOREIGN_KEYS)
    for name, constraint, _ in keys:
        session.query(f"alter table {name} drop constraint {constraint}")
    session.query(f"truncate {', '.join(map(identifier, tables))}")
    counts, replaced = {}, 0
    for table in tables.values():
        sent, odd = copy(source, session, table)
        if read_back(session, table) != sent:
            raise MoveError(f"{table.name}: what PostgreSQL holds is not what was sent; nothing was moved")
        replaced += odd
        counts[table.name] = sent[0]
    unchecked = restore_foreign_keys(session, keys)
    for sequence, name, column in session.query(SEQUENCES):
        session.query(f"select setval('{sequence}', coalesce((select max({column}) from {name}), 1))")
    session.query("commit")
    session.query("analyze")
    return {
        "tables": {name: count for name, count in counts.items() if count},
        "rows": sum(counts.values()),
        "replaced": replaced,
        "unchecked": unchecked,
    }


def open_source(path: Path) -> sqlite3.Connection:
    """Return the SQLite database, locked against other writers. Raises MoveError."""
    source = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=PATIENCE)
    source.text_factory = lambda data: data.decode("utf-8", errors="replace")
    try:
        source.execute("begin immediate")
        checked = source.execute("pragma quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        raise MoveError(f"{path} is in use ({error}); stop the server") from error
    except sqlite3.DatabaseError as error:
        raise MoveError(f"{path} cannot be read: {error}") from error
    if checked != "ok":
        raise MoveError(f"{path} is damaged: {checked}; restore a backup first")
    return source


@contextlib.contextmanager
def explained(params: dict[str, Any]) -> Iterator[None]:
    """Turn errors of PostgreSQL or the network into MoveError, which names the variable and the fix."""
    try:
        yield
    except (DatabaseError, OSError) as error:
        raise MoveError(explain(error, {**params, "variable": "prefect_database_host"})) from error


def moved(session: Connection, path: Path, *, replace: bool) -> dict[str, Any]:
    """Move the database and return the result. Raises MoveError."""
    with contextlib.closing(open_source(path)) as source:
        result = move(source, session, replace=replace)
        source.rollback()
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sqlite": {"type": "path", "required": True},
            "aside": {"type": "path", "required": True},
            "replace": {"type": "bool", "default": False},
            **LOGIN,
        },
        supports_check_mode=True,
    )
    params = module.params
    path, aside = Path(params["sqlite"]), Path(params["aside"])

    # Both run in the child process that reads the SQLite database as its account; errors leave it as text.
    def first() -> Connection:
        with explained(params):
            return connect(params, timeout=10)

    def work(opened: Connection) -> dict[str, Any]:
        with explained(params), opened as session:
            session.patient()
            return moved(session, path, replace=params["replace"])

    try:
        if not sqlite_files.exists(path):
            module.exit_json(changed=False)
        if state(aside) is not None:
            module.fail_json(msg=f"{aside} exists already; name another file to put the SQLite database aside")
        if module.check_mode:
            module.exit_json(changed=True)
        uid, gid = sqlite_files.account(path)
        result = as_account(uid, gid, work, first=first, timeout=LONGEST)
        sqlite_files.move(path, aside)
    except (AccountError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, **result)


if __name__ == "__main__":
    main()
