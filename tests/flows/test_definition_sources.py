"""Definitions in a database: SQLite and PostgreSQL, read as they are, and written by the loader."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import local_servers
import pytest
import yaml
from local_servers import POSTGRES, free_port
from server import PYTHON, needs_release

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "roles/prefect_definitions/files/definitions"

pytestmark = needs_release

# As those have them who keep their definitions in a database already.
TABLES = """
CREATE TABLE prefect_flows (id INTEGER PRIMARY KEY, name VARCHAR(255) UNIQUE, description TEXT, flow_type VARCHAR(50),
    tags JSON, is_active BOOLEAN, created_at TIMESTAMP);
CREATE TABLE prefect_tasks (id INTEGER PRIMARY KEY, flow_id INTEGER, name VARCHAR(255), description TEXT,
    celery_task_name VARCHAR(255), task_args JSON, task_kwargs JSON, depends_on JSON, retry_config JSON,
    timeout_seconds INTEGER, tags JSON, is_active BOOLEAN);
CREATE TABLE prefect_deployments (id INTEGER PRIMARY KEY, flow_id INTEGER, name VARCHAR(255), description TEXT,
    work_pool_name VARCHAR(255), work_queue_name VARCHAR(255), schedule_type VARCHAR(20), schedule_config JSON,
    parameters JSON, tags JSON, is_active BOOLEAN);
CREATE TABLE prefect_work_pools (id INTEGER PRIMARY KEY, name VARCHAR(255), description TEXT, pool_type VARCHAR(50),
    config JSON, concurrency_limit INTEGER, is_active BOOLEAN);
INSERT INTO prefect_work_pools VALUES (1, 'pool', 'Processes', 'process', NULL, 10, TRUE);
INSERT INTO prefect_flows VALUES (7, 'stock', 'Stocks', 'data_pipeline', '["stocks"]', TRUE, '2026-01-01 00:00:00');
INSERT INTO prefect_flows VALUES (8, 'old', NULL, NULL, NULL, FALSE, NULL);
INSERT INTO prefect_tasks VALUES (1, 7, 'download', NULL, 'data.download', '[]', '{"ticker": "AAPL"}', NULL,
    '{"max_retries": 3, "retry_delay_seconds": 30}', 300, NULL, TRUE);
INSERT INTO prefect_tasks VALUES (2, 7, 'rsi', NULL, 'indicators.rsi', NULL, NULL, '["download"]', NULL, NULL, NULL,
    TRUE);
INSERT INTO prefect_tasks VALUES (3, 8, 'nothing', NULL, 'nothing', NULL, NULL, NULL, NULL, NULL, NULL, TRUE);
INSERT INTO prefect_deployments VALUES (1, 7, 'daily', NULL, 'pool', 'default', 'cron',
    '{"cron_string": "30 15 * * 1-5", "timezone": "Asia/Kolkata"}', NULL, NULL, TRUE);
INSERT INTO prefect_deployments VALUES (2, 8, 'never', NULL, 'pool', NULL, 'interval', '{"interval_seconds": 60}',
    '{}', '[]', TRUE);
"""

DEFINITIONS = {
    "prefect_work_pools": [{"name": "pool", "description": "Processes", "concurrency_limit": 10}],
    "prefect_flows": [{"name": "stock", "tags": ["stocks"]}],
    "prefect_tasks": [
        {"name": "download", "flow_name": "stock", "celery_task_name": "data.download", "task_kwargs": {"a": "${B:c}"}},
        {"name": "rsi", "flow_name": "stock", "celery_task_name": "indicators.rsi", "depends_on": ["download"]},
    ],
    "prefect_deployments": [
        {
            "name": "daily",
            "flow_name": "stock",
            "schedule_type": "cron",
            "schedule_config": {"cron_string": "30 15 * * 1-5"},
        }
    ],
}


class Database:
    """A database of one kind, and a way to have it run SQL."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url, self.directory = url, directory

    def run(self, sql: str) -> None:
        if self.url.startswith("sqlite"):
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as database, database:
                database.executescript(sql)
            return
        command = [str(POSTGRES / "psql"), "--quiet", "--set", "ON_ERROR_STOP=1", self.url]
        subprocess.run(command, input=sql, text=True, check=True)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL, without the name of a database."""
    if not POSTGRES.exists():
        pytest.skip("needs PostgreSQL")
    with local_servers.postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables."""
    if request.param == "sqlite":
        sqlite3.connect(tmp_path / "flows.db").close()
        yield Database(f"sqlite:///{tmp_path}/flows.db", tmp_path)
    else:
        with local_servers.new_database(request.getfixturevalue("postgres")) as url:
            yield Database(url, tmp_path)


@pytest.fixture
def filled(empty: Database) -> Database:
    empty.run(TABLES)
    return empty


def tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the package's command line with the Python of the release."""
    command = [str(PYTHON), "-m", "prefect_definitions", *map(str, arguments)]
    return subprocess.run(command, cwd=SHIPPED, capture_output=True, text=True, check=False)


def placed(url: str, directory: Path, *, dry: bool = True) -> dict[str, object]:
    """Return what the Ansible module is answered of a database, for which no worker has to be there."""
    request = {"source": url, "data": {}, "paths": [], "work_pool": "default", "inactive": "absent", "dry": dry}
    command = [str(PYTHON), "-m", "prefect_definitions", "place", str(directory)]
    environment = os.environ | {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}
    answer = subprocess.run(
        command, cwd=SHIPPED, input=json.dumps(request), env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    return dict(json.loads(answer.stdout.rpartition("\n\n")[2]))


def test_rows_are_read_as_they_are(filled: Database, tmp_path: Path) -> None:
    checked = tool("check", filled.url)
    assert (checked.returncode, checked.stdout) == (0, "2 flows, 3 tasks, 2 deployments\n"), checked.stderr
    answer = placed(filled.url, tmp_path)
    assert answer["problems"] == []
    made = answer["resources"]
    assert isinstance(made, dict)
    assert [pool["concurrency_limit"] for pool in made["prefect_work_pools"]] == [10]
    # What is not active is removed.
    assert made["prefect_flows"] == [{"name": "stock", "tags": ["stocks", "data_pipeline"]}]
    (daily,) = made["prefect_deployments"]
    assert daily["schedules"] == [{"cron": "30 15 * * 1-5", "timezone": "Asia/Kolkata"}]
    assert daily["paused"] is False


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (
            "ALTER TABLE prefect_tasks ADD COLUMN extra TEXT;"
            "UPDATE prefect_tasks SET depends_on = '[\"x\"]' WHERE id = 2;",
            ["prefect_tasks, row 2 (rsi): depends_on names 'x', which is not defined"],
        ),
        (
            "UPDATE prefect_tasks SET flow_id = 9 WHERE id = 3;",
            ["prefect_tasks, row 3 (nothing): flow_id is 9, and no flow has that id"],
        ),
        (
            "DROP TABLE prefect_work_pools; ALTER TABLE prefect_flows DROP COLUMN tags;",
            ["the database has no table prefect_work_pools", "table prefect_flows has no column tags"],
        ),
        (
            "UPDATE prefect_deployments SET schedule_config = '{}' WHERE id = 1;"
            "UPDATE prefect_deployments SET schedule_config = '[1]' WHERE id = 2;",
            [
                "prefect_deployments, row 1 (daily): schedule_type cron needs a schedule_config with cron_string",
                "prefect_deployments, row 2 (never): schedule_config is [1], but has to be a mapping",
            ],
        ),
    ],
)
def test_bad_rows_are_named(filled: Database, sql: str, said: list[str]) -> None:
    filled.run(sql)
    checked = tool("check", filled.url)
    assert checked.returncode == 1
    assert sorted(checked.stderr.splitlines()) == sorted(said)


def test_what_is_not_json_is_named(filled: Database) -> None:
    """PostgreSQL lets nothing else into a JSON column, but many have a TEXT column there."""
    if filled.url.startswith("postgresql"):
        filled.run("ALTER TABLE prefect_tasks ALTER COLUMN task_kwargs TYPE text, ALTER COLUMN tags TYPE text;")
    filled.run("UPDATE prefect_tasks SET task_kwargs = '{ticker: AAPL}' WHERE id = 1;"
               "UPDATE prefect_tasks SET tags = 'a,b' WHERE id = 2;")  # fmt: skip
    lines = tool("check", filled.url).stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("prefect_tasks, row 1 (download): task_kwargs is not JSON: ")
    assert lines[1].startswith("prefect_tasks, row 2 (rsi): tags is not JSON: ")


def test_a_database_that_is_away_is_named(tmp_path: Path) -> None:
    for url, said in (
        (f"sqlite:///{tmp_path}/none.db", f"there is no {tmp_path}/none.db"),
        (f"postgresql://reader:s3cret@127.0.0.1:{free_port()}/flows", "the database is away"),
        ("flows://", "Can't load plugin"),
        ("postgresql://reader:s3cret@host:port/flows", "no SQLAlchemy URL"),
        ("mysql+pymysql://reader:s3cret@127.0.0.1/flows", "add its driver to prefect_packages"),
    ):
        checked = tool("check", url)
        assert checked.returncode == 1
        assert said in checked.stderr
        assert "s3cret" not in checked.stderr
        assert len(checked.stderr.splitlines()) == 1, checked.stderr
    assert not (tmp_path / "none.db").exists()


def test_a_database_that_is_empty_for_a_moment_removes_nothing(filled: Database, tmp_path: Path) -> None:
    assert placed(filled.url, tmp_path, dry=False)["problems"] == []
    filled.run("; ".join(f"DELETE FROM prefect_{kind}" for kind in ("deployments", "tasks", "flows", "work_pools")))
    said = str(placed(filled.url, tmp_path)["problems"])
    assert "the database holds no definitions, and this host has 2 flows of it" in said
    (tmp_path / "definitions.json").unlink()
    assert placed(filled.url, tmp_path)["problems"] == []


def test_reading_writes_nothing(filled: Database) -> None:
    script = (
        "from sqlalchemy import text; from prefect_definitions.sources import connected; import sys;"
        "connected(sys.argv[1], lambda c: c.execute(text('DELETE FROM prefect_tasks')))"
    )
    refused = subprocess.run(
        [PYTHON, "-c", script, filled.url], cwd=SHIPPED, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "read-only" in refused.stderr or "readonly" in refused.stderr


def test_files_are_loaded_and_loaded_again(empty: Database, tmp_path: Path) -> None:
    file = tmp_path / "flows.yml"
    file.write_text(yaml.safe_dump(DEFINITIONS))
    dry = tool("load", file, empty.url, "--dry-run")
    assert dry.stdout.count("+ table") == 4, dry.stderr
    first = tool("load", file, empty.url)
    assert first.stdout == dry.stdout, first.stderr
    assert "+ prefect_tasks rsi" in first.stdout
    assert tool("load", file, empty.url).stdout == "nothing to change\n"
    assert tool("check", empty.url).stdout == "1 flows, 2 tasks, 1 deployments\n"

    changed = json.loads(json.dumps(DEFINITIONS))
    changed["prefect_deployments"][0]["schedule_config"]["cron_string"] = "0 6 * * *"
    del changed["prefect_tasks"][1]
    file.write_text(yaml.safe_dump(changed))
    assert tool("load", file, empty.url).stdout == "~ prefect_deployments daily: schedule_config\n"
    assert tool("load", file, empty.url, "--prune").stdout == "- prefect_tasks rsi\n"
    assert tool("load", file, empty.url, "--prune").stdout == "nothing to change\n"


def test_flows_go_with_their_tasks_and_deployments(empty: Database, tmp_path: Path) -> None:
    """Tasks and deployments of several flows have the same names; a foreign key lets no flow go before them."""
    flows = "abc"
    data: dict[str, list[dict[str, str]]] = {
        "prefect_flows": [{"name": flow} for flow in flows],
        "prefect_tasks": [{"name": "extract", "flow_name": flow, "celery_task_name": "x.y"} for flow in flows],
        "prefect_deployments": [{"name": "daily", "flow_name": flow} for flow in flows],
    }
    file = tmp_path / "flows.yml"
    file.write_text(yaml.safe_dump(data))
    tool("load", file, empty.url)
    rest = {kind: [row for row in rows if row.get("flow_name", row["name"]) == "c"] for kind, rows in data.items()}
    file.write_text(yaml.safe_dump(rest))
    dry = tool("load", file, empty.url, "--prune", "--dry-run")
    assert sorted(dry.stdout.splitlines()) == sorted(
        [*(f"- prefect_flows {flow}" for flow in "ab"), *["- prefect_tasks extract", "- prefect_deployments daily"] * 2]
    )
    loaded = tool("load", file, empty.url, "--prune")
    assert loaded.stdout == dry.stdout, loaded.stderr
    assert tool("check", empty.url).stdout == "1 flows, 1 tasks, 1 deployments\n"
    assert tool("load", file, empty.url, "--prune").stdout == "nothing to change\n"


def test_rows_of_flows_that_are_gone_are_pruned(filled: Database, tmp_path: Path) -> None:
    """A database without foreign keys may have them."""
    file = tmp_path / "flows.yml"
    file.write_text(yaml.safe_dump(DEFINITIONS))
    filled.run("DELETE FROM prefect_flows WHERE name = 'old'")
    columns = "name, description, celery_task_name, task_args, task_kwargs, depends_on, retry_config, timeout_seconds"
    filled.run(
        f"INSERT INTO prefect_tasks (id, flow_id, {columns}) SELECT 4, 99, {columns} FROM prefect_tasks WHERE id = 3"
    )
    loaded = tool("load", file, filled.url, "--prune")
    assert loaded.stdout.count("- prefect_tasks nothing") == 2, loaded.stderr
    assert tool("check", filled.url).stdout == "1 flows, 2 tasks, 1 deployments\n"


def test_a_database_of_others_is_loaded_into(filled: Database, tmp_path: Path) -> None:
    file = tmp_path / "flows.yml"
    file.write_text(yaml.safe_dump(DEFINITIONS))
    loaded = tool("load", file, filled.url)
    assert loaded.returncode == 0, loaded.stderr
    assert "~ prefect_flows stock: description, flow_type" in loaded.stdout
    assert tool("load", file, filled.url).stdout == "nothing to change\n"


def test_what_a_table_cannot_hold_is_refused(empty: Database, tmp_path: Path) -> None:
    file = tmp_path / "flows.yml"
    runner = {"prefect_runners": [{"id": "r", "use": "a:b", "interval_seconds": 60}]}
    file.write_text(yaml.safe_dump(runner))
    refused = tool("load", file, empty.url)
    assert "prefect_tasks (r): the table has no column use; add it as text" in refused.stderr
    assert "has no table prefect_flows" in tool("check", empty.url).stderr
    file.write_text(yaml.safe_dump(DEFINITIONS))
    tool("load", file, empty.url)
    empty.run("ALTER TABLE prefect_tasks ADD COLUMN use TEXT")
    file.write_text(yaml.safe_dump(runner))
    assert "+ prefect_tasks r" in tool("load", file, empty.url).stdout
    assert tool("check", empty.url).stdout == "2 flows, 3 tasks, 2 deployments\n"
