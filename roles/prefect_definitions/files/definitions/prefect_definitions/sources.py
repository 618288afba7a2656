"""Where definitions come from: mappings, YAML files, and the tables of a SQL database.

A database is named by a SQLAlchemy URL. SQLite and PostgreSQL need no driver but those that Prefect brings along.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .records import DefinitionError, Row, columns, number
from .schema import KINDS, Definitions, Rows, rows_of, with_factory

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData
    from sqlalchemy.engine import URL

T = TypeVar("T")

SUFFIXES = {".json", ".yaml", ".yml"}

TABLES: dict[str, dict[str, str]] = {
    "prefect_flows": {
        "id": "key", "name": "unique", "description": "text", "flow_type": "text", "tags": "json", "is_active": "bool",
        "created_at": "time",
    },
    "prefect_tasks": {
        "id": "key", "flow_id": "flow", "name": "text", "description": "text", "celery_task_name": "text",
        "task_args": "json", "task_kwargs": "json", "depends_on": "json", "retry_config": "json",
        "timeout_seconds": "int", "tags": "json", "is_active": "bool",
    },
    "prefect_deployments": {
        "id": "key", "flow_id": "flow", "name": "text", "description": "text", "work_pool_name": "text",
        "work_queue_name": "text", "schedule_type": "text", "schedule_config": "json", "parameters": "json",
        "tags": "json", "is_active": "bool",
    },
    "prefect_work_pools": {
        "id": "key", "name": "unique", "description": "text", "pool_type": "text", "config": "json",
        "concurrency_limit": "int", "is_active": "bool",
    },
}  # fmt: skip
"""The tables of a database of definitions, and what their columns hold."""

FOR_PEOPLE = {"id", "flow_id", "created_at", "updated_at"}
"""Columns that are no part of a definition."""


def read(source: str, *, factory: str = "") -> dict[str, list[Row]]:
    """Return the rows of a source: a database's URL, a file, or a directory of files.

    `factory` is the import path of what resolves the names in `use`, or an empty text. Raises DefinitionError.
    """
    if "://" in source:
        return with_factory(read_database(source), factory)
    return read_files(Path(source), factory=factory)


def read_files(path: Path, *, factory: str = "") -> dict[str, list[Row]]:
    """Return the rows of a YAML or JSON file, or of all in a directory. Raises DefinitionError."""
    import yaml

    if not path.exists():
        raise DefinitionError([f"there is no {path}"])
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise DefinitionError([f"{path} has no file of definitions: {', '.join(sorted(SUFFIXES))}"])
    contents: dict[str, Any] = {}
    problems: list[str] = []

    class WithoutDates(yaml.SafeLoader):
        """Leaves dates the texts that they are in the file: JSON has no dates."""

    WithoutDates.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: str(node.value))

    for file in files:
        name = str(file.relative_to(path)) if path.is_dir() else file.name
        try:
            text = file.read_text(encoding="utf-8")
            contents[name] = json.loads(text) if file.suffix == ".json" else yaml.load(text, Loader=WithoutDates)
        except (OSError, ValueError, yaml.YAMLError) as error:
            problems.append(f"{name}: {' '.join(str(error).split())}")
    return merged(contents, factory=factory, problems=problems)


def merged(contents: Mapping[str, Any], *, factory: str = "", problems: Iterable[str] = ()) -> dict[str, list[Row]]:
    """Return the rows of the contents of files, by their names. Raises DefinitionError, also for `problems`.

    A file that is being written is empty for a moment: one that has to be so says it.
    """
    rows: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    found = list(problems)
    for name, content in contents.items():
        if content is None or content == {}:
            found.append(f"{name} is empty; remove it, or write prefect_flows: [] if there are to be no definitions")
            continue
        try:
            for kind, added in rows_of(content, where=name, factory=factory).items():
                rows[kind] += added
        except DefinitionError as error:
            found += error.problems
    if found:
        raise DefinitionError(found)
    return rows


def data_of(rows: Rows) -> dict[str, list[dict[str, Any]]]:
    """Return rows as a mapping of lists, as a file holds them."""
    return {kind: [dict(row.values) for row in rows.get(kind, [])] for kind in KINDS if rows.get(kind)}


def address(url: str) -> URL:
    """Return a SQLAlchemy URL with the driver that Prefect brings along. Raises DefinitionError where it is none."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The text itself may hold a password.
        raise DefinitionError(
            ["the address of the database is no SQLAlchemy URL, such as sqlite:////srv/flows.db"]
        ) from None
    drivers = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite": "sqlite"}
    dialect = parsed.drivername.partition("+")[0]
    return parsed.set(drivername=drivers.get(dialect, parsed.drivername))


def connected(url: str, work: Callable[[Connection], T], *, write: bool = False) -> T:
    """Return what `work` makes of a connection to a database, in one transaction, read-only unless `write`.

    Raises DefinitionError where the database is away or refuses.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    parsed = address(url)
    shown = parsed.render_as_string(hide_password=True)

    async def asynchronously() -> T:
        settings = {} if write else {"default_transaction_read_only": "on"}
        arguments = {"server_settings": settings, "timeout": 15}
        engine = create_async_engine(parsed, poolclass=NullPool, connect_args=arguments)
        async with engine.begin() as connection:
            result: T = await connection.run_sync(work)
            return result

    try:
        if parsed.drivername.endswith("+asyncpg"):
            return asyncio.run(asynchronously())
        if parsed.drivername == "sqlite" and parsed.database and not write and not Path(parsed.database).is_file():
            raise DefinitionError([f"{shown}: there is no {parsed.database}"])
        with create_engine(parsed, poolclass=NullPool).begin() as connection:
            if parsed.drivername == "sqlite" and not write:
                connection.execute(text("PRAGMA query_only = ON"))
            return work(connection)
    except SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or error
        raise DefinitionError([f"{shown}: {' '.join(str(reason).split())}"]) from error
    except ModuleNotFoundError as error:
        raise DefinitionError([f"{shown}: {error}; add its driver to prefect_packages"]) from error
    except (OSError, asyncio.TimeoutError) as error:
        raise DefinitionError([f"{shown}: the database is away: {error or 'it does not answer'}"]) from error


def reflected(connection: Connection) -> MetaData:
    """Return the tables of the definitions in a database. Raises DefinitionError for missing tables and columns."""
    from sqlalchemy import MetaData, inspect

    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    problems = [f"the database has no table {table}" for table in TABLES if table not in there]
    for table, wanted in TABLES.items():
        if table in there:
            found = {column["name"] for column in inspector.get_columns(table)}
            problems += [
                f"table {table} has no column {name}"
                for name in wanted
                if name not in found | {"description", "created_at"}
            ]
    if problems:
        raise DefinitionError(problems)
    metadata = MetaData()
    metadata.reflect(connection, only=[name for name in TABLES if name in there])
    return metadata


def decoded(value: Any, where: str, problems: list[str]) -> Any:
    """Return the value of a JSON column, which drivers give decoded or as a text; nothing for an empty one."""
    if not isinstance(value, str | bytes):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except ValueError as error:
        problems.append(f"{where} is not JSON: {error}")
        return None


def plain(value: Any) -> Any:
    """Return the value of a column as JSON can have it."""
    if isinstance(value, Decimal | float):
        return number(value)
    return value if value is None or isinstance(value, bool | int | str | list | dict) else str(value)


def read_database(url: str) -> dict[str, list[Row]]:
    """Return the rows of a database of definitions. Raises DefinitionError with everything that is wrong."""
    from sqlalchemy import Text, cast, select
    from sqlalchemy.types import JSON

    def work(connection: Connection) -> dict[str, list[Row]]:
        metadata = reflected(connection)
        problems: list[str] = []
        rows: dict[str, list[Row]] = {}
        flows: dict[Any, str] = {}
        for name, spec in TABLES.items():
            table, known = metadata.tables[name], columns(KINDS[name])
            # As a text, so that what is not JSON is named with its row, and not thrown by the driver.
            wanted = [
                cast(column, Text).label(column.name) if isinstance(column.type, JSON) else column for column in table.c
            ]
            rows[name] = []
            for record in connection.execute(select(*wanted).order_by(table.c.id)).mappings():
                where = f"{name}, row {record['id']} ({record['name']})"
                values = {
                    column: decoded(value, f"{where}: {column}", problems)
                    if spec.get(column) == "json"
                    else plain(value)
                    for column, value in record.items()
                    if column in known
                }
                if name == "prefect_flows":
                    flows[record["id"]] = record["name"]
                elif "flow_id" in spec:
                    if record["flow_id"] not in flows:
                        problems.append(f"{where}: flow_id is {record['flow_id']!r}, and no flow has that id")
                        continue
                    values["flow_name"] = flows[record["flow_id"]]
                rows[name].append(Row(where, values))
        if problems:
            raise DefinitionError(problems)
        return rows

    return connected(url, work)


def metadata_of_tables() -> MetaData:
    """Return the tables as they are made in a database that has none."""
    from sqlalchemy import JSON, Boolean, Column, DateTime, ForeignKey, Integer, MetaData, String, Table, func

    metadata = MetaData()
    kinds: dict[str, Callable[[str], Any]] = {
        "key": lambda name: Column(name, Integer, primary_key=True),
        "unique": lambda name: Column(name, String(255), unique=True, nullable=False),
        "flow": lambda name: Column(name, Integer, ForeignKey("prefect_flows.id"), nullable=False),
        "text": lambda name: Column(name, String),
        "int": lambda name: Column(name, Integer),
        "json": lambda name: Column(name, JSON),
        "bool": lambda name: Column(name, Boolean, nullable=False, default=True),
        "time": lambda name: Column(name, DateTime(timezone=True), server_default=func.now()),
    }
    for table, spec in TABLES.items():
        Table(table, metadata, *(kinds[kind](name) for name, kind in spec.items()))
    return metadata


def load(definitions: Rows, url: str, *, prune: bool = False, dry: bool = False) -> list[str]:
    """Make a database hold definitions, and return a line for each row that differed: `+`, `~` and, pruned, `-`.

    Tables that are missing are made. Raises DefinitionError for definitions that are wrong or that a table has no
    column for; nothing is written then.
    """
    Definitions.of(definitions)
    rows = tabular(definitions)

    def work(connection: Connection) -> list[str]:
        from sqlalchemy import delete, inspect

        there = set(inspect(connection).get_table_names())
        missing = [name for name in TABLES if name not in there]
        held = {
            name: set(TABLES[name])
            if name in missing
            else {column["name"] for column in inspect(connection).get_columns(name)}
            for name in TABLES
        }
        # Before the first table is made, which SQLite does not take back.
        if problems := [
            f"{kind} ({row['name']}): the table has no column {name}; add it as text"
            for kind, found in rows.items()
            for row in found
            for name in row
            if name not in held[kind] | {"flow_name"}
        ]:
            raise DefinitionError(problems)
        changes = [f"+ table {name}" for name in missing]
        if missing and dry:
            return changes + [f"+ {kind} {row['name']}" for kind in TABLES for row in rows[kind]]
        metadata_of_tables().create_all(connection)
        metadata = reflected(connection)
        flows: dict[str, Any] = {}
        doomed: dict[str, list[Any]] = {}
        for kind in TABLES:
            table = metadata.tables[kind]
            records = [dict(record) for record in connection.execute(table.select()).mappings()]
            # By the id of the flow: a row whose flow is gone has no other name for it.
            before = {(record.get("flow_id"), record["name"]): record for record in records}
            wanted = {(flows.get(row.get("flow_name", "")), row["name"]): row for row in rows.get(kind, [])}
            for key, row in wanted.items():
                changes += written(connection, table, before.get(key), row, flows=flows, dry=dry)
            stay = {before[key]["id"] for key in wanted.keys() & before.keys()}
            gone = [record for record in records if prune and record["id"] not in stay]
            changes += [f"- {kind} {record['name']}" for record in gone]
            doomed[kind] = [record["id"] for record in gone]
            if kind == "prefect_flows":
                flows = {record.name: record.id for record in connection.execute(table.select())}
                # A flow that is yet to be inserted has an id that no row has.
                flows |= {row["name"]: ("", row["name"]) for row in rows.get(kind, []) if row["name"] not in flows}
        # What belongs to a flow before the flow: PostgreSQL enforces the foreign key.
        for kind, identifiers in reversed(doomed.items()):
            table = metadata.tables[kind]
            if identifiers and not dry:
                connection.execute(delete(table).where(table.c.id.in_(identifiers)))
        return changes

    return connected(url, work, write=True)


def tabular(definitions: Rows) -> dict[str, list[dict[str, Any]]]:
    """Return definitions as rows of tables, runners as the flow, task and deployment that they are short for."""
    rows: dict[str, list[dict[str, Any]]] = {
        kind: [dict(row.values) for row in definitions.get(kind, [])] for kind in TABLES
    }
    if definitions.get("prefect_runners"):
        checked = Definitions.of({"prefect_runners": definitions["prefect_runners"]})
        for kind, records in (
            ("prefect_flows", checked.flows),
            ("prefect_tasks", checked.tasks),
            ("prefect_deployments", checked.deployments),
        ):
            for record in records:
                values = dataclasses.asdict(record)
                rows[kind].append({name: value for name, value in values.items() if value not in ("", None, [], {})})
    return rows


def written(
    connection: Connection,
    table: Any,
    before: Mapping[str, Any] | None,
    row: dict[str, Any],
    *,
    flows: Mapping[str, Any],
    dry: bool,
) -> list[str]:
    """Insert or update a row where that is needed, and return the line that says so."""
    from sqlalchemy import insert, update
    from sqlalchemy.types import JSON, Boolean

    kinds = TABLES[table.name]
    given = {"is_active": True} | {name: value for name, value in row.items() if name != "flow_name"}
    values: dict[str, Any] = {}
    for name in (name for name in table.c.keys() if name not in FOR_PEOPLE):  # noqa: SIM118
        value = given.get(name)
        as_text = (kinds.get(name) == "json" or isinstance(value, dict | list)) and not isinstance(
            table.c[name].type, JSON
        )
        values[name] = json.dumps(value) if as_text and value is not None else value
        if kinds.get(name) == "bool" and not isinstance(table.c[name].type, Boolean):
            values[name] = int(bool(value))
    if "flow_id" in kinds:
        values["flow_id"] = flows[row["flow_name"]]
    if before is None:
        if not dry:
            connection.execute(insert(table).values(values))
        return [f"+ {table.name} {row['name']}"]
    differing = {name: value for name, value in values.items() if not same(before[name], value)}
    if differing and not dry:
        connection.execute(update(table).where(table.c.id == before["id"]).values(differing))
    return [f"~ {table.name} {row['name']}: {', '.join(differing)}"] if differing else []


def same(held: Any, wanted: Any) -> bool:
    """Return whether a column holds a value: JSON is compared as what it means, an empty one as none."""

    def meaning(value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                return value
        return None if value in ("", [], {}) else value

    return bool(meaning(held) == meaning(wanted))
