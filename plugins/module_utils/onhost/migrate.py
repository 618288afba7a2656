"""Migrate this instance's PostgreSQL database to the installed release's schema, once, even if several hosts run this.

The current schema version is read first, without importing Prefect, so that an up-to-date database costs little.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SETTING = "PREFECT_SERVER_DATABASE_"
TLS = f"{SETTING}SQLALCHEMY_CONNECT_ARGS_TLS_"
LOCK = int.from_bytes(b"prefect", "big")
"""Key of the advisory lock, which applies to this database only; PostgreSQL releases it when the session ends."""


def target() -> dict[str, Any]:
    """Return the connection parameters of the database for asyncpg."""
    from sqlalchemy import make_url

    if text := os.environ.get(f"{SETTING}CONNECTION_URL"):
        url = make_url(text)
        found = {
            "host": url.host,
            "port": url.port,
            "user": url.username,
            "password": url.password,
            "database": url.database,
        }
        # A URL for a UNIX socket has the directory in its query.
        found = {**url.query, **{name: value for name, value in found.items() if value is not None}}
        if "port" in found:
            found["port"] = int(found["port"])
    else:
        names = {"host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD", "database": "NAME"}
        found = {name: os.environ.get(SETTING + setting) for name, setting in names.items()}
        found["port"] = int(os.environ[f"{SETTING}PORT"])
    if os.environ.get(f"{TLS}ENABLED") == "true":
        context = ssl.create_default_context(cafile=os.environ.get(f"{TLS}CA_FILE"))
        context.check_hostname = os.environ.get(f"{TLS}CHECK_HOSTNAME") != "false"
        if certificate := os.environ.get(f"{TLS}CERT_FILE"):
            context.load_cert_chain(certificate, os.environ.get(f"{TLS}KEY_FILE"))
        found["ssl"] = context
    if path := os.environ.get(f"{SETTING}SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH"):
        found["server_settings"] = {"search_path": path}
    return {name: value for name, value in found.items() if value is not None}


def revisions() -> tuple[str, set[str]]:
    """Return the schema revision that the installed Prefect needs, and all revisions that it knows."""
    found = find_spec("prefect")
    assert found is not None and found.submodule_search_locations is not None
    package = Path(found.submodule_search_locations[0])
    known, older = set(), set()
    for path in (package / "server/database/_migrations/versions/postgresql").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        known |= set(re.findall(r"""^revision(?:: [^=]+)? = ["'](\w+)["']""", text, re.MULTILINE))
        if before := re.search(r"^down_revision(?:: [^=]+)? = (.+)$", text, re.MULTILINE):
            older |= set(re.findall(r"""["'](\w+)["']""", before[1]))
    (head,) = known - older
    return head, known


async def version(connection: Any) -> str | None:
    """Return the schema revision of the database; None if it is empty."""
    if await connection.fetchval("select to_regclass('alembic_version')") is None:
        return None
    found: str | None = await connection.fetchval("select version_num from alembic_version")
    return found


async def register_blocks(database: Any) -> None:
    """Register the block types, as a server does when it starts: several servers at once would conflict and fail."""
    from prefect.server.models.block_registration import run_block_auto_registration

    async with await database.session() as session:
        await run_block_auto_registration(session=session)


async def migrate() -> int:
    """Migrate the database if it is older than the release, and return the exit code."""
    import asyncpg

    head, known = revisions()
    connection = await asyncpg.connect(timeout=30, **target())
    # Poll for the lock: a waiting query would hold a snapshot, which blocks the building of an index.
    while not await connection.fetchval("select pg_try_advisory_lock($1)", LOCK):
        await asyncio.sleep(0.5)
    found = await version(connection)
    alone = os.environ.get(f"{SETTING}MIGRATE_ON_START") == "true"
    if found is not None and found not in known:
        print(
            f"prefect_version: the database has the schema {found} of a newer Prefect than this one; install that "
            "version again, or restore a backup of the database from before it",
            file=sys.stderr,
        )
        return 1
    # A single server creates the schema in an empty database when it starts, and registers its block types.
    migrates = found != head and not (found is None and alone)
    memo = Path(os.environ["PREFECT_HOME"], "blocks_registered")
    release = f"{Path(sys.prefix).resolve().name} {target()['host']} {target()['database']}\n"
    registers = not alone and (found != head or not memo.exists() or memo.read_text() != release)
    if migrates or registers:
        from prefect.server.database import provide_database_interface

        database = provide_database_interface()
        if migrates:
            await database.create_db()
        if registers:
            await register_blocks(database)
            memo.write_text(release)
    return 0


def main(arguments: Sequence[str]) -> int:
    return asyncio.run(migrate())
