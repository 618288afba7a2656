"""The databases to back up, a SQLite file or Prefect's tables in PostgreSQL, and the operations on their backups.

The module `backup` runs this from the controller, and a timer runs it on the host: see `main`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import re
import shutil
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from . import backups, proofs, sqlite_files
from .backups import Backup, BackupError, Contents, Origin
from .postgres import Connection, DatabaseError, acting_as, tls_context
from .proofs import Census, Place, ProofError
from .safe_files import (
    AccountError,
    UnsafePathError,
    beside,
    followed,
    reach,
    read,
    write,
)

TABLES = frozenset(
    {
        "agent",
        "alembic_version",
        "artifact",
        "artifact_collection",
        "automation",
        "automation_bucket",
        "automation_event_follower",
        "automation_held_event",
        "automation_related_resource",
        "block_document",
        "block_document_reference",
        "block_schema",
        "block_schema_reference",
        "block_type",
        "composite_trigger_child_firing",
        "concurrency_limit",
        "concurrency_limit_v2",
        "configuration",
        "csrf_token",
        "deployment",
        "deployment_schedule",
        "deployment_version",
        "event_resources",
        "events",
        "flow",
        "flow_run",
        "flow_run_input",
        "flow_run_state",
        "log",
        "saved_search",
        "task_run",
        "task_run_state",
        "task_run_state_cache",
        "variable",
        "work_pool",
        "work_queue",
        "worker",
    }
)
"""The tables of Prefect 3.5.0 to NEWEST. A PostgreSQL database may contain others, which belong to another owner."""

NEWEST = "3.9.1"
"""The newest version whose tables are known."""

TYPES = frozenset({"deployment_status", "state_type", "work_pool_status", "work_queue_status", "worker_status"})
"""The types of the same versions."""

BY_TABLE = ("TABLE DATA", "TABLE", "FK CONSTRAINT", "CONSTRAINT", "DEFAULT", "TRIGGER")
OTHER = ("SEQUENCE OWNED BY", "SEQUENCE SET", "SEQUENCE", "INDEX", "TYPE")
ENTRY = rf"(?P<id>\d+); \d+ \d+ (?P<kind>{'|'.join(BY_TABLE + OTHER)}) SCHEMA (?P<tag>\S+).*"
"""A line of pg_restore's list of an archive, for the schema in place of SCHEMA: a name with a space has no visible end.

Prefect has no entries of other kinds.
"""

HOME = re.compile(r"\d+; \d+ \d+ TABLE (?!DATA )(?P<schema>.+) alembic_version .*")
"""The line of the list that has the schema of Prefect's tables."""

COPY = re.compile(rb'COPY (?:"(?:[^"]|"")+"|\S+?)\."?([^". ]+)"? \(.*\) FROM stdin;\n')
CLIENTS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
SEPARATOR = "\x1f"

SCHEMA = """
SELECT current_setting('server_version_num'), coalesce(n.nspname, current_schema()), c.oid IS NOT NULL
FROM (SELECT to_regclass('alembic_version') AS oid) AS found
LEFT JOIN pg_class AS c ON c.oid = found.oid LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
"""

RELATIONS = """
SELECT relname, relkind IN ('r', 'p') FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE nspname = {schema} AND relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY relname
"""

SEQUENCES = """
SELECT s.relname, t.relname FROM pg_class AS s JOIN pg_namespace AS n ON n.oid = s.relnamespace
LEFT JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid
    AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
LEFT JOIN pg_class AS t ON t.oid = d.refobjid
WHERE nspname = {schema} AND s.relkind = 'S' ORDER BY s.relname
"""
"""The sequences, each with the table that owns it, if any."""

UNKNOWN = """
WITH known AS (
    SELECT c.oid, relowner FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
    WHERE nspname = {schema} AND relkind IN ('r', 'p') AND relname IN ({tables})
)
SELECT n.nspname, c.relname, n.nspname = {schema} AND relowner IN (SELECT relowner FROM known),
    count(f.oid) > 0, count(f.oid) FILTER (WHERE f.confrelid IN (SELECT oid FROM known)) > 0
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
LEFT JOIN pg_constraint AS f ON f.contype = 'f' AND (
    (f.conrelid = c.oid AND f.confrelid IN (SELECT oid FROM known))
    OR (f.confrelid = c.oid AND f.conrelid IN (SELECT oid FROM known))
)
WHERE c.relkind IN ('r', 'p') AND c.oid NOT IN (SELECT oid FROM known)
    AND (f.oid IS NOT NULL OR n.nspname = {schema})
GROUP BY n.nspname, c.relname, c.relowner ORDER BY n.nspname, c.relname
"""
"""The tables that a backup leaves out: each with whether it is beside Prefect's with their owner, whether a foreign key
links it with one of them, and whether that is its own."""

IDENTITY = """
SELECT oid, coalesce(has_function_privilege(to_regprocedure('pg_control_system()'), 'EXECUTE'), false)
FROM pg_database WHERE datname = current_database()
"""

ENUMS = """
SELECT typname FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = typnamespace
WHERE nspname = {schema} AND typtype = 'e' ORDER BY typname
"""

SETTINGS = """
SELECT setting FROM pg_db_role_setting, unnest(setconfig) AS setting
WHERE setting LIKE 'search_path=%'
AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = {user}))
ORDER BY setrole <> 0 DESC, setdatabase <> 0 DESC LIMIT 1
"""
"""The search_path with which the user's sessions begin; a superuser's sessions do not have it."""


EXTENSION = """
SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE extname = 'pg_trgm'
"""
"""The schema of the extension that Prefect's indexes need."""

DIGEST = """
SELECT encode(sha256(coalesce(string_agg(digest, ''::bytea ORDER BY digest), ''::bytea)), 'hex')
FROM (SELECT sha256(convert_to(t::text, 'UTF8')) AS digest FROM {rows} AS t) AS each
"""

AS_TEXT = ("DateStyle = 'ISO'", "IntervalStyle = 'postgres'", "TimeZone = 'UTC'", "bytea_output = 'hex'")
"""Settings of a session by which equal rows are equal texts."""


def selection(name: str, table: str) -> str:
    """Return the SQL for the rows of a table that have a digest and names: all or, of flow runs, the newest."""
    if name != proofs.RUNS:
        return table
    return f"(SELECT * FROM {table} ORDER BY created DESC, id DESC LIMIT {proofs.NEWEST})"


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return a name as a quoted SQL identifier, which the patterns of pg_dump accept, too."""
    return '"' + name.replace('"', '""') + '"'


OPTIONS = "PREFECT_BACKUP_OPTIONS"
"""Environment variable in which a host's timer passes the options of `run`, as JSON."""

LAST_LINES = 20

AT_ONCE = 2
"""Number of backups that one run may remove by their age; on a schedule, about one gets too old between two runs."""

DEFAULTS: Mapping[str, Any] = {
    "state": "present",
    "installation": "",
    "version": "",
    "target": "",
    "restore": None,
    "restore_instance": "",
    "since": None,
    "safety": True,
    "copies": 1,
    "keep": 0,
    "keep_days": 0,
    "command": [],
    "record": None,
    "verify": False,
    "proof": None,
    "former": None,
    "sqlite": None,
    "owner": None,
    "host": None,
    "port": 5432,
    "database": "prefect",
    "user": "prefect",
    "password": None,
    "search_path": "",
    "sslmode": "prefer",
    "ca": None,
    "cert": None,
    "key": None,
    "superuser": None,
}
"""Defaults of the options of the module `backup`."""


class NoDatabaseError(BackupError):
    """No server has ever created its tables in this database."""


FAILURES = (BackupError, AccountError, DatabaseError, OSError)
"""Errors of a database, a backup or a host."""


class Sqlite:
    """A SQLite database: a file, its log and its index, in a directory that another account can write."""

    suffix = ".sqlite"

    def __init__(self, file: Path, owner: str | None = None) -> None:
        self.file = file
        self.owner: tuple[int, int] | None = None
        # Before the first installation this account does not exist.
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(owner) if owner else None
            self.owner = (account.pw_uid, account.pw_gid) if account else None
        self.name = file.stem

    def scratch(self, home: Path) -> Sqlite:
        """Return the scratch database of a proof, in a directory of the server's account."""
        return Sqlite(home / "prefect.db")

    def check_scratch(self, scratch: Sqlite) -> None:
        """Check that there is space for a scratch database and its log. Raises BackupError and OSError."""
        needed, free = self.file.stat().st_size, shutil.disk_usage(scratch.file.parent).free
        if free < 2 * needed:
            raise BackupError(
                f"{scratch.file.parent}: {needed >> 19} MiB are needed there, and {free >> 20} MiB are free"
            )

    def create_scratch(self, scratch: Sqlite) -> None:
        """Do nothing: a restore creates the file."""

    def drop_scratch(self, name: str) -> None:
        """Do nothing: the file is removed with its directory."""

    def connection(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the settings by which a server uses this file."""
        return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.file}"}

    def census(self, *, names: bool = False) -> Census:
        """Count the rows of the database, which no other process may use. Raises AccountError and OSError."""
        return Census(**sqlite_files.ask(self.file, lambda copy: count(copy, names=names), like=self.file))

    def ready(self, backup: Path | None, directory: Path, *, copies: int = 1) -> None:
        """Check that there is space for the copies that a change needs. Raises BackupError and OSError."""
        there = self.file.stat().st_size * copies if sqlite_files.exists(self.file) else 0
        for place, needed in ((directory, there), (self.file.parent, backup.stat().st_size if backup else 0)):
            existing = next(parent for parent in (place, *place.parents) if parent.exists())
            free = shutil.disk_usage(existing).free
            if free < needed:
                raise BackupError(f"{place}: {needed >> 20} MiB are needed there, and {free >> 20} MiB are free")

    def dump(self, target: Path, *, census: bool = False) -> Contents:
        """Copy a consistent state of the database, even during writes. Raises BackupError and AccountError.

        With `census`, the rows and digests are those of the database, not those of the copy.
        """
        if not sqlite_files.exists(self.file):
            raise NoDatabaseError(f"{self.file} does not exist: has the server ever run?")
        counted = sqlite_files.copy(self.file, target, question=count if census else None)
        found = self.prove(target)
        return replace(found, rows=counted["rows"], digests=counted["digests"]) if counted else found

    def prove(self, backup: Path) -> Contents:
        """Verify that a backup is intact and Prefect's; return its content. Raises BackupError and AccountError."""

        def question(copy: sqlite3.Connection) -> tuple[str, str, dict[str, int]]:
            try:
                (found,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
                if found != "ok":
                    return found, "", {}
                (revision,) = copy.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
                rows = count_rows(copy)
            except sqlite3.Error as error:
                return str(error), "", {}
            return "" if revision else "its schema has no revision", str(revision), rows

        wrong, revision, rows = sqlite_files.ask(backup, question, like=self.file)
        if wrong:
            raise BackupError(f"{backup} is no good backup of a SQLite database of Prefect: {wrong}")
        return Contents(revision=revision, rows=rows)

    def layout(self, backup: Path) -> list[str]:
        """Return the SQL of the schema in a backup, which half a migration changes before it changes the revision.

        Raises AccountError and OSError.
        """

        def question(copy: sqlite3.Connection) -> list[str]:
            found = copy.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
            return [str(sql) for name, sql in found if not name.startswith("sqlite_")]

        return sorted(sqlite_files.ask(backup, question, like=self.file))

    def restore(self, backup: Path) -> None:
        """Replace the database by a backup, with the owner of its directory. Raises AccountError and OSError."""
        sqlite_files.replace(self.file, backup, owner=self.owner)

    def empty(self) -> None:
        """Remove the database. Raises AccountError and OSError."""
        if sqlite_files.exists(self.file):
            sqlite_files.remove(self.file)

    def salvage(self, directory: Path) -> Path:
        """Copy a damaged database as it is, and return the directory of the copy."""
        target = Path(tempfile.mkdtemp(prefix="damaged-", dir=directory))
        with beside(followed(self.file)) as (home, name), reach(target) as kept:
            for each in (name, f"{name}-wal"):
                if home.state(each) is None:
                    continue
                with (
                    home.open(each) as reading,
                    kept.create(each, owner=os.geteuid(), group=os.getegid(), mode=0o600) as writing,
                ):
                    while part := os.read(reading, backups.CHUNK):
                        os.write(writing, part)
        return target


def count_rows(database: sqlite3.Connection) -> dict[str, int]:
    """Return the number of rows of each table."""
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    return {
        name: int(database.execute(f"SELECT count(*) FROM {identifier(name)}").fetchone()[0])
        for (name,) in names
        if not name.startswith("sqlite_")
    }


def count(database: sqlite3.Connection, *, names: bool = False) -> dict[str, Any]:
    """Return the fields of a Census of a SQLite database."""
    rows = count_rows(database)

    def chosen(table: str) -> str:
        return selection(table, identifier(table))

    found = {}
    if names:
        for table, column in proofs.NAMED.items():
            found[table] = database.execute(f"SELECT id, {column} FROM {chosen(table)}").fetchall()
    # Another text_factory would have to decode what is no text.
    database.text_factory = bytes
    digests = {
        table: proofs.digest_of(database.execute(f"SELECT * FROM {chosen(table)}"))
        for table in proofs.DIGESTED
        if table in rows
    }
    database.text_factory = str
    return {"rows": rows, "digests": digests, "names": found}


class Unknown(NamedTuple):
    """A table that is not known to be Prefect's.

    Is it `beside` Prefect's tables, with their owner; does a foreign key link it with one of them; is that its own?
    """

    name: str
    beside: bool
    linked: bool
    depends: bool


class Schema(NamedTuple):
    """The schema in which Prefect's tables are, or would be."""

    major: int
    name: str
    exists: bool


class Postgresql:
    """A PostgreSQL database, accessed through PostgreSQL's client programs."""

    suffix = ".dump"

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.name = given["database"]
        self.user = given["user"]
        self.superuser = given["superuser"]
        # PostgreSQL may identify the user by the account at the other end of its socket.
        by_socket = (given["host"] or "").startswith("/") and os.geteuid() == 0
        self.account = self.superuser or (given["owner"] if by_socket else None)
        wanted = {
            "PGHOST": given["host"],
            "PGPORT": str(given["port"]),
            "PGDATABASE": given["database"],
            "PGUSER": self.superuser or self.user,
            "PGPASSWORD": given["password"],
            "PGSSLMODE": given["sslmode"],
            "PGSSLROOTCERT": given["ca"],
            "PGSSLCERT": given["cert"],
            "PGSSLKEY": given["key"],
            "PGCONNECT_TIMEOUT": "15",
            "LC_ALL": "C",
        }
        self.environment = {**os.environ, **{name: value for name, value in wanted.items() if value}}

    def identity(self) -> str:
        """Return what no other database has; an empty text if the cluster does not say. Raises DatabaseError."""
        ((oid, may),) = self._query(IDENTITY)
        if may != "t":
            return ""
        ((cluster,),) = self._query("SELECT system_identifier FROM pg_control_system()")
        return f"{cluster}-{oid}"

    def revision(self) -> str:
        """Return the revision of the schema; an empty text if there is none. Raises BackupError and DatabaseError."""
        if not self._schema().exists:
            return ""
        ((revision,),) = self._ask("SELECT version_num FROM alembic_version") or [[""]]
        return revision or ""

    def ready(self, backup: Path | None, directory: Path, *, copies: int = 1) -> None:
        """Check that the programs for a change are installed and the backup fits the database. Raises BackupError."""
        schema = self._schema()
        program("psql")
        program("pg_dump", at_least=schema.major)
        if schema.exists:
            others = self._unknown(schema)
            self._require_known(others)
            depends = [each.name for each in others if each.depends]
            if backup and depends:
                raise BackupError(
                    f"{self.name}: foreign keys of another owner's tables ({', '.join(depends)}) depend on Prefect's "
                    "tables, which a restore replaces: drop these foreign keys, and create them again afterwards"
                )
        if backup:
            self._entries(backup, schema)

    def left_out(self, version: str) -> list[str]:
        """Return the tables that a version newer than NEWEST may have created, and that a backup leaves out."""
        schema = self._schema()
        if not schema.exists or backups.released(version) <= backups.released(NEWEST):
            return []
        return [each.name for each in self._unknown(schema) if each.beside]

    def scratch(self, home: Path) -> Postgresql:
        """Return the scratch database of a proof, in the same cluster. Raises BackupError."""
        path = identifier(self._schema().name)
        return Postgresql({**self.given, "database": f"{self.name}{backups.SCRATCH}", "search_path": path})

    def check_scratch(self, scratch: Postgresql) -> None:
        """Check that a scratch database can be created, and does not exist. Raises BackupError."""
        ((may,),) = self._query("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
        if may != "t":
            raise BackupError(
                f"prefect_server_backup_verify: a proof needs the database {scratch.name}, and {self.user} may not "
                f"create it: run ALTER ROLE {identifier(self.user)} CREATEDB in the PostgreSQL of {self.name}"
            )
        if self._query(f"SELECT 1 FROM pg_database WHERE datname = {literal(scratch.name)}"):
            raise BackupError(
                f"prefect_server_backup_verify: a proof needs the name {scratch.name}, and another owner's database "
                "has it: rename that database"
            )

    def create_scratch(self, scratch: Postgresql) -> None:
        """Create a scratch database, with this one's schema and extension. Raises BackupError."""
        name = identifier(scratch.name)
        self._query(f"CREATE DATABASE {name} OWNER {identifier(self.user)} TEMPLATE template0 ENCODING 'UTF8'")
        home = self._schema().name
        extension = [str(schema) for (schema,) in self._query(EXTENSION)]
        for schema in dict.fromkeys([home, *extension]):
            if schema != "public":
                scratch._query(f"CREATE SCHEMA {identifier(schema)} AUTHORIZATION {identifier(self.user)}")
        for schema in extension:
            scratch._query(f"CREATE EXTENSION pg_trgm SCHEMA {identifier(schema)}")
        # The server's sessions begin with it, as those of the real one.
        scratch._query(f"ALTER DATABASE {name} SET search_path TO {identifier(home)}, public")

    def drop_scratch(self, name: str) -> None:
        """Drop a scratch database, if it exists. Raises BackupError."""
        self._query(f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)")

    def connection(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the settings by which a server with other settings uses this database instead."""
        changed = {name: self.name for name in settings if name.endswith("_DATABASE_NAME")}
        for name, value in settings.items():
            if name.endswith("_DATABASE_CONNECTION_URL"):
                changed[name] = urlsplit(value)._replace(path=f"/{quote(self.name, safe='')}").geturl()
        return changed

    def census(self, *, names: bool = False) -> Census:
        """Count the rows of Prefect's tables. Raises BackupError."""
        with self._session() as session:
            return self._count(session, self._schema(), names=names)

    def _count(self, session: Connection, schema: Schema, *, names: bool = False) -> Census:
        for setting in AS_TEXT:
            session.query(f"SET {setting}")

        def table(name: str) -> str:
            return f"{identifier(schema.name)}.{identifier(name)}"

        def chosen(name: str) -> str:
            return selection(name, table(name))

        tables = [name for name, is_table in self._relations(schema) if is_table and name in TABLES]
        rows = {name: int(session.query(f"SELECT count(*) FROM {table(name)}")[0][0] or 0) for name in tables}
        digests = {
            name: str(session.query(DIGEST.format(rows=chosen(name)))[0][0])
            for name in proofs.DIGESTED
            if name in tables
        }
        found = {}
        if names:
            for name, column in proofs.NAMED.items():
                found[name] = session.query(f"SELECT id, {column} FROM {chosen(name)} AS t")
        return Census(rows=rows, digests=digests, names=found)

    def dump(self, target: Path, *, census: bool = False) -> Contents:
        """Dump a consistent state of Prefect's tables. Raises BackupError.

        With `census`, the rows and digests are those of the database in this state, not those of the dump.
        """
        schema = self._schema()
        if not schema.exists:
            raise NoDatabaseError(f"{self.name} has no tables of Prefect yet: has the server ever run?")
        self._require_known(self._unknown(schema))
        others = [name for name, _ in self._relations(schema) if name not in TABLES]
        # pg_dump reads those of excluded tables, too, and may not be permitted to.
        sequences = self._ask(SEQUENCES.format(schema=literal(schema.name)))
        others += [name or "" for name, table in sequences if table not in TABLES]
        command = [program("pg_dump", at_least=schema.major), "--format=custom", "--no-owner", "--no-privileges"]
        command.append(f"--schema={identifier(schema.name)}")
        command += [f"--exclude-table={identifier(schema.name)}.{identifier(name)}" for name in others]
        if not census:
            with target.open("wb") as output:
                self._run(command, stdout=output)
            return self.prove(target)
        with self._session() as session, target.open("wb") as output:
            session.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            ((snapshot,),) = session.query("SELECT pg_export_snapshot()")
            self._run([*command, f"--snapshot={snapshot}"], stdout=output)
            counted = self._count(session, schema)
        return replace(self.prove(target), rows=counted.rows, digests=counted.digests)

    def prove(self, backup: Path) -> Contents:
        """Read all of a backup, and return its content. Raises BackupError if it is damaged or not Prefect's."""
        rows: dict[str, int] = {}
        revision, table = "", ""
        with self._script(backup) as script:
            for line in script:
                if table and line == b"\\.\n":
                    table = ""
                elif table:
                    rows[table] += 1
                    revision = line.decode().strip() if table == "alembic_version" else revision
                elif started := COPY.fullmatch(line):
                    table = started[1].decode()
                    rows[table] = 0
        if not revision:
            raise BackupError(f"{backup} is no good backup of a PostgreSQL database of Prefect: it has no revision")
        return Contents(revision=revision, rows=rows)

    def layout(self, backup: Path) -> list[str]:
        """Return nothing: a migration changes the schema and the revision in one transaction."""
        return []

    def restore(self, backup: Path) -> None:
        """Replace Prefect's tables by those of a backup, all or none. Raises BackupError."""
        schema = self._schema()
        entries = self._entries(backup, schema)
        with tempfile.NamedTemporaryFile("w", prefix="prefect-restore-") as chosen:
            chosen.write("\n".join(entries) + "\n")
            chosen.flush()
            # The PostgreSQL superuser reads this file; it contains no data.
            os.fchmod(chosen.fileno(), 0o644)
            options = [f"--use-list={chosen.name}"]

            def feed(psql: IO[bytes]) -> None:
                with self._script(backup, *options) as script:
                    shutil.copyfileobj(script, psql, backups.CHUNK)

            self._execute(schema, feed)

    def empty(self) -> None:
        """Remove Prefect's tables and nothing else. Raises BackupError."""
        self._execute(self._schema(), lambda psql: None)

    def _schema(self) -> Schema:
        ((version, name, exists),) = self._ask(SCHEMA)
        return Schema(major=int(version or 0) // 10000, name=name or "public", exists=exists == "t")

    def _relations(self, schema: Schema) -> list[tuple[str, bool]]:
        found = self._ask(RELATIONS.format(schema=literal(schema.name)))
        return [(name or "", is_table == "t") for name, is_table in found]

    def _unknown(self, schema: Schema) -> list[Unknown]:
        """Return the tables that are linked with Prefect's or in their schema, and not known to be Prefect's."""
        tables = ", ".join(literal(name) for name in sorted(TABLES))
        found = self._ask(UNKNOWN.format(schema=literal(schema.name), tables=tables))
        return [Unknown(f"{home}.{name}", *(flag == "t" for flag in flags)) for home, name, *flags in found]

    def _require_known(self, others: list[Unknown]) -> None:
        """Reject tables that are Prefect's by all signs: a backup would lack them. Raises BackupError."""
        if names := [each.name for each in others if each.beside and each.linked]:
            raise BackupError(
                f"{self.name}: {', '.join(names)} belongs to Prefect's user and is linked with Prefect's tables by a "
                f"foreign key, but is in no version of Prefect up to {NEWEST}: a backup would leave it out. If a newer "
                "Prefect has created it, update this collection; if not, move it to another schema"
            )

    def _ask(self, sql: str) -> list[list[str | None]]:
        """Return the rows of a query, run as the server's user with the server's search_path."""
        path = self.given["search_path"]
        if self.superuser and not path:
            ((path,),) = self._query(SETTINGS.format(user=literal(self.user))) or [[""]]
            path = (path or "").partition("=")[2]
        prepare = f"SET ROLE {identifier(self.user)};" if self.superuser else ""
        if path:
            prepare += f"DO $$ BEGIN PERFORM set_config('search_path', {literal(path)}, false); END $$;"
        return self._query(prepare + sql)

    def _query(self, sql: str) -> list[list[str | None]]:
        if self.superuser:
            psql = program("psql")
            words = [psql, "--quiet", "--no-psqlrc", "--tuples-only", "--no-align", "--record-separator-zero"]
            said = self._run([*words, f"--field-separator={SEPARATOR}", f"--command={sql}"], stdout=subprocess.PIPE)
            return [list(row.split(SEPARATOR)) for row in said.decode().rstrip("\n").split("\0") if row]
        with self._connection() as connection:
            return connection.query(sql)

    def _connection(self) -> Connection:
        given = self.given
        verified = given["sslmode"].startswith("verify-")
        context = tls_context(
            ca=given["ca"] or "" if verified else "",
            cert=given["cert"] or "",
            key=given["key"] or "",
            check_hostname=given["sslmode"] == "verify-full",
            verify=verified,
        )
        host, tls = given["host"] or "127.0.0.1", None if given["sslmode"] == "disable" else context
        if self.superuser:
            # The first directory with a socket, which is the one that the client programs use.
            ((directories,),) = self._query("SHOW unix_socket_directories")
            host, tls = (directories or "").partition(",")[0].strip(), None
        with acting_as(self.account or ""):
            return Connection(
                host=host,
                port=given["port"],
                user=self.superuser or self.user,
                password=given["password"] or "",
                database=self.name,
                tls=tls,
                tls_required=verified or given["sslmode"] == "require",
                timeout=15,
            )

    @contextlib.contextmanager
    def _session(self) -> Iterator[Connection]:
        """Yield a session whose statements may take long. Raises DatabaseError."""
        with self._connection() as session:
            session.patient()
            for setting in ("idle_in_transaction_session_timeout", "statement_timeout"):
                session.query(f"SET {setting} = 0")
            yield session

    def _entries(self, backup: Path, schema: Schema) -> list[str]:
        """Return Prefect's entries of an archive, as pg_restore lists them. Raises BackupError."""
        with backup.open("rb") as content:
            listed = self._restorer(content, "--list", "--verbose").decode(errors="replace")
        pattern = re.compile(ENTRY.replace(" SCHEMA ", f" {re.escape(schema.name)} "))
        entries: list[re.Match[str]] = []
        needs: dict[str, set[str]] = {}
        last = ""
        for line in listed.splitlines():
            if line.startswith(";\tdepends on:"):
                needs[last] = set(line.split(":")[1].split())
            elif not line.startswith(";"):
                last = line.partition(";")[0]
                entries += [entry] if (entry := pattern.fullmatch(line)) else []
        homes = {home["schema"] for line in listed.splitlines() if (home := HOME.fullmatch(line))}
        if homes != {schema.name}:
            found = ", ".join(sorted(homes)) or "no schema"
            raise BackupError(
                f"{backup} has Prefect's tables in {found}, and the database {self.name} has them in {schema.name}: "
                "set the search_path of prefect_database_url or of the user to the same schema"
            )
        own: set[str] = set()
        chosen = []
        for entry in entries:
            # An archive lists dependencies before the entries that depend on them.
            if (
                entry["tag"] in TABLES
                if entry["kind"] in BY_TABLE
                else entry["tag"] in TYPES
                if entry["kind"] == "TYPE"
                else bool(own & needs.get(entry["id"], set()))
            ):
                chosen.append(entry[0])
                own.add(entry["id"])
        return chosen

    @contextlib.contextmanager
    def _script(self, backup: Path, *options: str) -> Iterator[IO[bytes]]:
        """Yield the SQL of a backup. Raises BackupError at the end if the program that reads it failed."""
        words = ["--no-owner", "--no-privileges", "--no-comments", *options, "--file=-"]
        with backup.open("rb") as content, tempfile.TemporaryFile() as said:
            command = self._as_user([self._reader(backup), *words])
            # The superuser may not be able to enter the current directory.
            reader = subprocess.Popen(
                command, env=self.environment, cwd="/", stdin=content, stdout=subprocess.PIPE, stderr=said
            )
            assert reader.stdout
            try:
                yield reader.stdout
            finally:
                reader.stdout.close()
                code = reader.wait()
                said.seek(0)
                reason = said.read().decode(errors="replace").strip()
            if code:
                raise BackupError(f"{backup} is no good backup of a PostgreSQL database of Prefect: {reason}")

    def _reader(self, backup: Path) -> str:
        """Return the oldest pg_restore that reads a backup: an older server may not accept what a newer one writes."""
        reason = f"{program('pg_restore')} cannot read it"
        for _, directory in clients("pg_restore"):
            with backup.open("rb") as content:
                done = self._call([str(directory / "pg_restore"), "--list"], stdin=content, stdout=subprocess.DEVNULL)
            if not done.returncode:
                return str(directory / "pg_restore")
            reason = done.stderr.decode(errors="replace").strip()
        raise BackupError(f"{backup} is no good backup of a PostgreSQL database of Prefect: {reason}")

    def _restorer(self, content: IO[bytes], *options: str) -> bytes:
        return self._run([self._reader(Path(content.name)), *options], stdin=content, stdout=subprocess.PIPE)

    def _execute(self, schema: Schema, feed: Callable[[IO[bytes]], None]) -> None:
        """Remove Prefect's tables and run the SQL that `feed` writes, in one transaction. Raises BackupError."""
        home = identifier(schema.name)
        tables = [f"{home}.{identifier(name)}" for name, table in self._relations(schema) if table and name in TABLES]
        enums = [str(name) for (name,) in self._ask(ENUMS.format(schema=literal(schema.name)))]
        types = [f"{home}.{identifier(name)}" for name in enums if name in TYPES]
        # If another owner's table or view depends on one of these, the statement fails with an error that names it.
        begin = [
            "BEGIN;",
            "SET LOCAL lock_timeout = '60s';",
            f"SET LOCAL ROLE {identifier(self.user)};",
            *([f"DROP TABLE {', '.join(tables)};"] if tables else []),
            *([f"DROP TYPE {', '.join(types)};"] if types else []),
        ]
        command = self._as_user([program("psql"), "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--file=-"])
        with tempfile.TemporaryFile() as said:
            streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": said}
            psql = subprocess.Popen(command, env=self.environment, cwd="/", **streams)
            assert psql.stdin
            try:
                psql.stdin.write("\n".join([*begin, ""]).encode())
                feed(psql.stdin)
                # Only this commits: if this module or `feed` ends earlier, psql reads the end of its input, and the
                # server rolls back.
                psql.stdin.write(b"\nCOMMIT;\n")
                psql.stdin.close()
            except BrokenPipeError:
                # psql has ended and reports the reason below.
                pass
            finally:
                with contextlib.suppress(BrokenPipeError):
                    psql.stdin.close()
                psql.wait()
            said.seek(0)
            if psql.returncode:
                raise BackupError(f"psql: nothing has changed: {said.read().decode(errors='replace').strip()}")

    def _as_user(self, words: list[str]) -> list[str]:
        # Only libpq's variables are needed from root's environment, and `runuser` keeps them.
        return ["runuser", "--user", self.account, "--", *words] if self.account else words

    def _call(self, words: list[str], **streams: Any) -> subprocess.CompletedProcess[bytes]:
        # The superuser may not be able to enter the current directory.
        command = self._as_user(words)
        return subprocess.run(command, env=self.environment, cwd="/", stderr=subprocess.PIPE, check=False, **streams)

    def _run(self, words: list[str], **streams: Any) -> bytes:
        done = self._call(words, **streams)
        if done.returncode:
            raise BackupError(f"{Path(words[0]).name}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout or b""


def clients(name: str) -> list[tuple[int, Path]]:
    """Return the directories on this host with a PostgreSQL client program, by major version, oldest first."""
    found: dict[int, Path] = {}
    if there := shutil.which(name):
        said = subprocess.run([there, "--version"], capture_output=True, text=True, check=False).stdout
        if version := re.search(r"\) (\d+)", said):
            found[int(version[1])] = Path(there).parent
    for directory in (path for pattern in CLIENTS for path in Path("/").glob(pattern.lstrip("/"))):
        version = re.search(r"\d+", directory.parent.name)
        if version and (directory / name).is_file():
            found[int(version[0])] = directory
    return sorted(found.items())


def program(name: str, *, at_least: int = 0) -> str:
    """Return the oldest client program that supports a server of a major version. Raises BackupError."""
    there = clients(name)
    for version, directory in there:
        if version >= at_least:
            return str(directory / name)
    found = ", ".join(f"{version} in {directory}" for version, directory in there) or "none"
    package = f"postgresql-client-{at_least}" if at_least else "postgresql-client"
    newer = f" of version {at_least} or newer, as the server is," if at_least else ""
    raise BackupError(
        f"{os.uname().nodename}: {name}{newer} is needed, and found was {found}: install the package {package}"
        + (" (apt.postgresql.org has it where the distribution does not)" if at_least else "")
    )


def usable(own: list[Backup]) -> list[Backup]:
    """Return the backups of which `latest` is the newest: those whose proof has not failed."""
    return [backup for backup in own if not backup.unproven]


def chosen(
    database: Sqlite | Postgresql, directory: Path, *, own: list[Backup], alike: list[Backup], given: Mapping[str, Any]
) -> Backup:
    """Return the backup to restore, after checking that it is intact and fits. Raises BackupError.

    `alike` are the backups of databases with the same names.
    """
    name = given["restore"]
    if name == "latest":
        if not usable(own):
            said = ", other than those whose proof failed" if own else ""
            if others := ", ".join(each.path.name for each in alike if each not in own):
                said += (
                    ". Those of another database of these names, which may be this one before it was installed again: "
                    f"{others}. To restore one, name it"
                )
            raise BackupError(f"{directory} has no backup of {given['instance']}'s {database.name} yet{said}")
        backup = usable(own)[-1]
        if backup.is_ahead:
            raise BackupError(
                f"{backup.path} is the latest, and is dated in the future: a clock was wrong, or that of "
                f"{os.uname().nodename} is wrong now. If it is the one to restore, set prefect_server_restore to "
                f"{backup.path.name}"
            )
    else:
        places = [directory / name, directory / backups.SAFETY / name]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            known = ", ".join(each.path.name for each in alike) or "none"
            raise BackupError(f"{places[0]} does not exist; the backups of {given['instance']} in {directory}: {known}")
        backup = backups.read(path)
    if problem := backup.problem():
        raise BackupError(f"{backup.path}: {problem}; restore another")
    of = given["restore_instance"] or given["instance"]
    if backup.origin.instance and backup.origin.instance != of:
        raise BackupError(
            f"{backup.path} is a backup of the instance {backup.origin.instance}, not of {of}: restore another, or set "
            f"prefect_server_restore_instance to {backup.origin.instance} if this one is to become a copy of it"
        )
    wanted = given["target"] or given["version"]
    if backup.origin.version and wanted and backups.released(backup.origin.version) > backups.released(wanted):
        raise BackupError(
            f"{backup.path} was made by Prefect {backup.origin.version}, whose schema {wanted} does not know: set "
            f"prefect_version to {backup.origin.version}"
        )
    database.prove(backup.path)
    return backup


@contextlib.contextmanager
def as_backup_errors() -> Iterator[None]:
    """Convert errors of the host or of an account into BackupError."""
    try:
        yield
    except (AccountError, OSError) as error:
        raise BackupError(message(error)) from error


def check(directory: Path) -> None:
    """Reject a backup directory whose content another account can replace. Raises BackupError."""
    existing = next(step for step in (directory, *directory.parents) if step.exists())
    with as_backup_errors(), reach(followed(existing)) as found:
        if not found.is_safe:
            raise BackupError(
                f"prefect_server_backup_dir: another account can write {found.path}, or a directory above it, and "
                "replace the backups there; name a directory that only root can write, below /var/backups for one"
            )


def move(former: Path, directory: Path, *, suffix: str, dry: bool) -> list[str]:
    """Move root's backups from the directory of earlier versions, and return their names. Raises BackupError."""
    found: list[str] = []
    with as_backup_errors(), contextlib.suppress(FileNotFoundError), reach(former) as old:
        # If the directory is not root's, the account has replaced the original one.
        if old.own_state().st_uid != os.geteuid():
            return []
        for name in old.names():
            state = old.state(name)
            is_single = state is not None and stat.S_ISREG(state.st_mode) and state.st_nlink == 1
            if is_single and state is not None and state.st_uid == os.geteuid() and name.endswith(suffix):
                found.append(name)
        if found and not dry:
            with beside(directory, make=True) as (above, last):
                above.make(last, mode=0o700)
            for name in found:
                with reach(directory) as kept, old.open(name) as reading:
                    with kept.create(name, owner=os.geteuid(), group=os.getegid(), mode=0o600) as writing:
                        while part := os.read(reading, 2**20):
                            os.write(writing, part)
                    os.unlink(name, dir_fd=old.descriptor)
    if found and not dry:
        # A directory with other files stays.
        with contextlib.suppress(OSError), beside(former) as (above, last):
            os.rmdir(last, dir_fd=above.descriptor)
    return found


def secure(database: Sqlite | Postgresql, directory: Path, *, origin: Origin) -> Path | None:
    """Back up what is about to be replaced; return the path, or None if there is no database. Raises BackupError."""
    place = directory / backups.SAFETY
    try:
        return backups.write(place, origin=origin, suffix=database.suffix, make=database.dump).path
    except NoDatabaseError:
        return None
    except (BackupError, AccountError) as error:
        # Salvage only a damaged database, not one that is locked, nor one on a full disk.
        if isinstance(database, Postgresql) or (isinstance(error, AccountError) and error.kind != "DatabaseError"):
            raise
        return database.salvage(place)


def renew(database: Sqlite | Postgresql, directory: Path, *, origin: Origin, since: Path) -> dict[str, Any]:
    """Back up the database of an interrupted upgrade, and compare it with the backup from before the upgrade.

    Returns the new backup's `path` and `revision`, and in `since` whether the older release can use it, too (`usable`),
    or else what going back to the other one loses (`cost`). Raises BackupError and the database's errors.
    """
    place = directory / backups.SAFETY
    try:
        made = backups.write(place, origin=origin, suffix=database.suffix, make=database.dump)
    except NoDatabaseError:
        return {"since": {"usable": False, "cost": ""}}
    except (BackupError, AccountError) as error:
        # As `secure` does.
        if isinstance(database, Postgresql) or (isinstance(error, AccountError) and error.kind != "DatabaseError"):
            raise
        return {"path": str(database.salvage(place)), "since": {"usable": False, "cost": f"all rows since ({error})"}}
    result = {"path": str(made.path), "revision": made.revision}
    try:
        before = backups.read(since)
        if problem := before.problem():
            raise BackupError(problem)
        contents = database.prove(since)
        layout = database.layout(since)
    except (BackupError, AccountError, OSError) as error:
        return result | {"since": {"usable": False, "cost": f"all rows, since it cannot be read ({message(error)})"}}
    if (contents.revision, layout) == (made.revision, database.layout(made.path)):
        return result | {"since": {"usable": True, "cost": ""}}
    common = made.rows.keys() & contents.rows.keys() - {"alembic_version"}
    rows = sum(abs(made.rows[table] - contents.rows[table]) for table in common)
    cost = f"the difference of {rows} rows"
    if before.made:
        minutes = (backups.instant(made.made) - backups.instant(before.made)).total_seconds() // 60
        cost = f"{cost}, and every other change of the {minutes:.0f} minutes since it was made"
    return result | {"since": {"usable": False, "cost": cost}}


def message(error: Exception) -> str:
    """Return the message of an error of the operating system, SQLite or PostgreSQL, with the file that it concerns."""
    if isinstance(error, OSError) and not isinstance(error, UnsafePathError):
        where = f"{error.filename}: " if error.filename else ""
        full = (
            "; free space there, or set prefect_server_backup_dir"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else ""
        )
        return f"{where}{error.strerror or error}{full}"
    return str(error)


def surplus(own: list[Backup], *, keep: int, keep_days: int) -> list[Backup]:
    """Return the backups to remove after the next one is made: those beyond a number, and the oldest that are too old.

    By age, the newest of them always stays, and one run removes no more than AT_ONCE: the clock may be wrong.
    """
    now = backups.instant(backups.moment())
    oldest = (now - timedelta(days=keep_days)).strftime(backups.MOMENT) if keep_days else ""
    many = max(0, len(own) + 1 - keep) if keep else 0
    aged = [backup for backup in own[many:-1] if backup.made < oldest]
    return own[:many] + aged[:AT_ONCE]


def hand_over(command: list[str], backup: Path) -> None:
    """Run the user's command that copies a backup off the host. Raises BackupError if it fails."""
    # In a timer's unit, the environment contains the server's password.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    words = [*command, str(backup)]
    try:
        done = subprocess.run(
            words,
            env=environment | {"PREFECT_BACKUP": str(backup)},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        reason = f"ended with exit code {done.returncode}" if done.returncode else ""
        said = "\n".join(done.stdout.decode(errors="replace").strip().splitlines()[-LAST_LINES:])
    except OSError as error:
        reason, said = f"cannot be started: {error.strerror}", ""
    if reason:
        # Name only the program: its arguments may contain a secret.
        raise BackupError(
            f"prefect_server_backup_command: {command[0]} {reason} on {os.uname().nodename}. The backup is good and "
            f"stays in {backup}; run the command by hand to see why, and copy it"
            + (f". It printed:\n{said}" if said else "")
        )


def record(path: Path, backup: Backup) -> None:
    """Record when the newest backup was made and proven, for prefect-info, which may not read the backup directory.

    What was recorded of the newest proven one stays until another is proven.
    """

    def moment(stamp: str) -> str:
        return backups.instant(stamp).isoformat() if stamp else ""

    before: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        before = json.loads(read(path))
    content = {
        "name": backup.path.name,
        "made": moment(backup.made),
        "size": backup.size,
        "proven": moment(backup.proven),
        "unproven": backup.unproven.partition("\n")[0],
        "newest_proven": moment(backup.made) if backup.proven else before.get("newest_proven", ""),
    }
    own = {"owner": os.geteuid(), "group": os.getegid()}
    write(path, f"{json.dumps(content)}\n".encode(), mode=0o644, **own)


def proved(database: Sqlite | Postgresql, backup: Backup, place: Place) -> tuple[Backup, str]:
    """Prove a backup and record it in its manifest; return it, and the whole error if it is not proven."""
    try:
        proofs.prove(database, backup, place)
    except ProofError as error:
        said = f"prefect_server_backup_verify: {backup.path} is kept, and is not proven: {error}"
        if error.log:
            said += f". The log of the scratch server ends with:\n{error.log}"
        return backups.mark(backup, unproven=str(error)), said
    return backups.mark(backup), ""


def run(given: Mapping[str, Any], *, dry: bool, warn: Callable[[str], None]) -> dict[str, Any]:
    """Run the given options and return the module's result. Raises BackupError, OSError and the databases' errors."""
    database = Sqlite(Path(given["sqlite"]), given["owner"]) if given["sqlite"] else Postgresql(given)
    directory, state, suffix = Path(given["directory"]), given["state"], database.suffix
    origin = Origin(
        instance=given["instance"], server=given["server"], database=database.name, version=given["version"]
    )
    # The servers of an instance share a PostgreSQL database.
    whose = origin if given["sqlite"] else replace(origin, server="")
    result: dict[str, Any] = {"changed": state not in {"checked", "listed"}, "path": None, "removed": []}
    if state != "cleared":
        check(directory)
    if given["former"]:
        try:
            result["moved"] = move(Path(given["former"]), directory, suffix=suffix, dry=dry)
        except BackupError as error:
            warn(f"Backups of an earlier version are not looked for: {error}")
    place = Place.of(given["proof"]) if given["proof"] else None
    if state == "cleared":
        result["changed"] = place is not None and place.scratch.exists()
        if place and not dry:
            try:
                proofs.clear(database, place)
            except FAILURES as error:
                # The database server may be gone, too.
                warn(f"What a killed proof of a backup left is not removed completely: {message(error)}")
        return result
    makes = state in {"present", "secured"}
    if makes and isinstance(database, Postgresql) and (left := database.left_out(given["version"])):
        warn(
            f"Prefect {given['version']} is newer than {NEWEST}, the newest one whose tables this collection knows. "
            f"If it has created {', '.join(left)} in {database.name}, the backup lacks that: update this collection"
        )
    # A list of the backups has to be there when the database is not.
    with contextlib.suppress(*FAILURES) if state == "listed" or dry else contextlib.nullcontext():
        identity = given["installation"] if isinstance(database, Sqlite) else database.identity()
        origin, whose = replace(origin, identity=identity), replace(whose, identity=identity)
    own = backups.own(directory, origin=whose, suffix=suffix)
    if state == "listed":
        kept = backups.own(directory / backups.SAFETY, origin=whose, suffix=suffix)
        latest = usable(own)[-1:]
        shown = [backups.describe(each, latest=each in latest, safety=each in kept) for each in (*own, *kept)]
        return result | {"backups": shown, "table": backups.table(shown)}
    if state == "secured":
        if not dry and given["since"]:
            result |= renew(database, directory, origin=origin, since=Path(given["since"]))
        elif not dry:
            made = backups.write(directory / backups.SAFETY, origin=origin, suffix=suffix, make=database.dump)
            result |= {"path": str(made.path), "revision": made.revision}
        return result
    if state == "present":
        old = surplus(own, keep=given["keep"], keep_days=given["keep_days"])
        result["removed"] = [str(each.path) for each in old]
        if dry:
            return result
        if given["verify"] and not place:
            raise BackupError(
                f"prefect_server_backup_verify: {os.uname().nodename} makes the backup, and has no server whose "
                "release could prove it: set it to false"
            )
        failures = []

        def dump(target: Path) -> Contents:
            return database.dump(target, census=given["verify"])

        made = backups.write(directory, origin=origin, suffix=suffix, make=dump)
        result |= {"path": str(made.path), "revision": made.revision}
        if place and given["verify"]:
            made, failure = proved(database, made, place)
            failures += [failure] if failure else []
        elif place:
            # A killed proof may have left something, and no other may follow.
            proofs.clear(database, place)
        result["proven"] = bool(made.proven)
        # The older ones may be the only good ones.
        if made.unproven:
            result["removed"] = []
        else:
            for each in old:
                backups.remove(each)
        if given["record"]:
            record(Path(given["record"]), made)
        if given["command"]:
            try:
                hand_over(given["command"], made.path)
            except BackupError as error:
                failures.append(str(error))
        if failures:
            raise BackupError("\n".join(failures))
        return result
    alike = backups.own(directory, origin=replace(whose, identity=""), suffix=suffix)
    backup = chosen(database, directory, own=own, alike=alike, given=given) if given["restore"] else None
    if state == "proven":
        if not backup or not place:
            raise BackupError("to prove a backup, name it in restore, and describe the scratch server in proof")
        if not dry:
            backup, failure = proved(database, backup, place)
            if failure:
                raise BackupError(failure)
        return result | {"path": str(backup.path), "proven": bool(backup.proven)}
    database.ready(backup.path if backup else None, directory, copies=given["copies"])
    if backup:
        result["restored"] = str(backup.path)
    elif state == "checked" and isinstance(database, Postgresql):
        result["revision"] = database.revision()
    if state == "checked" or dry:
        return result
    if given["safety"]:
        path = secure(database, directory, origin=origin)
        result["path"] = str(path) if path else None
    if state == "restored" and backup:
        database.restore(backup.path)
    else:
        database.empty()
    return result


def server_password(environment: Mapping[str, str]) -> str | None:
    """Return the database password in the server's settings."""
    url = urlsplit(environment.get("PREFECT_SERVER_DATABASE_CONNECTION_URL", ""))
    return unquote(url.password) if url.password else environment.get("PREFECT_SERVER_DATABASE_PASSWORD")
