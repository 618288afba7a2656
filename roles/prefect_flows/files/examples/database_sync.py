"""Copy what has changed in one database into another, once a day.

Both are SQLite files here, so that it runs anywhere. For another database change the two places that connect, and
keep the rest: reading from a watermark and writing with an upsert makes a run safe to repeat, whenever it was killed.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from prefect import flow, task

TABLE = "CREATE TABLE IF NOT EXISTS customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, updated_at TEXT NOT NULL)"
UPSERT = """
    INSERT INTO customers (id, name, updated_at) VALUES (?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, updated_at = excluded.updated_at
"""

Row = tuple[int, str, str]


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Connect to a database that has the table, and commit at the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(TABLE)
        yield database


@task
def watermark(target: Path) -> str:
    """Return the time of the newest change that the target has; empty for a new target."""
    with writing(target) as database:
        return database.execute("SELECT coalesce(max(updated_at), '') FROM customers").fetchone()[0]


@task(retries=2, retry_delay_seconds=10)
def read_changes(source: Path, since: str) -> list[Row]:
    """Return the rows changed at `since` or later: rows that share its time may not have been there last time."""
    with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as database:
        return database.execute("SELECT * FROM customers WHERE updated_at >= ? ORDER BY id", [since]).fetchall()


@task(retries=2, retry_delay_seconds=10)
def write_changes(target: Path, rows: list[Row]) -> None:
    with writing(target) as database:
        database.executemany(UPSERT, rows)


@task
def example_source() -> Path:
    """Make a small database to try the flow with."""
    source = Path("data/example.db")
    with writing(source) as database:
        database.executemany(UPSERT, [(1, "Ada", "2026-01-01T08:00:00Z"), (2, "Grace", "2026-01-02T09:30:00Z")])
    return source


@flow(log_prints=True)
def database_sync(source: Path | None = None, target: Path = Path("data/target.db")) -> int:
    """Bring `target` up to date with `source` and return the number of rows written."""
    source = source or example_source()
    rows = read_changes(source, since=watermark(target))
    write_changes(target, rows)
    print(f"Wrote {len(rows)} rows to {target}")
    return len(rows)


if __name__ == "__main__":
    database_sync()
