"""Backups of a PostgreSQL database: whole or absent, restored in one transaction, and others' tables left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import backups, databases
from ansible_collections.selfhosted.prefect.plugins.modules import host_backup as backup
from conftest import PrefectServer
from fake_api import outcome
from local_servers import POSTGRES, new_database, postgres

TABLES = """
CREATE TYPE state_type AS ENUM ('RUNNING', 'COMPLETED');
CREATE TABLE alembic_version (version_num varchar PRIMARY KEY);
INSERT INTO alembic_version VALUES ('27d8f4e1a6c9');
CREATE TABLE flow (id serial PRIMARY KEY, name text UNIQUE);
CREATE TABLE flow_run (id int PRIMARY KEY, flow_id int REFERENCES flow, state state_type, padding text);
CREATE INDEX ix_flow_run__state ON flow_run (state);
INSERT INTO flow (name) VALUES ('first'), (E'tab\\tand\\nline');
INSERT INTO flow_run SELECT n, 1, 'RUNNING', md5(n::text) || md5((n + 1)::text) FROM generate_series(1, 2000) AS n;
"""

OTHERS = """
CREATE TYPE currency AS ENUM ('EUR');
CREATE TABLE public.accounting (amount int, currency currency);
CREATE INDEX ix_accounting ON public.accounting (amount);
CREATE FUNCTION public.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
INSERT INTO public.accounting VALUES (100, 'EUR');
"""


class Database:
    """A database with some of Prefect's tables, and the tables of others."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url, self.directory = url, directory

    def sql(self, text: str) -> str:
        command = [str(POSTGRES / "psql"), "-qAt", "--set=ON_ERROR_STOP=1", self.url]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def given(self, **more: Any) -> dict[str, Any]:
        parts = urlsplit(self.url)
        given = {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password}
        place = {"directory": str(self.directory), "instance": "prefect", "server": "one", "version": "3.8.8"}
        return {**given, "database": parts.path[1:], **place, **more}

    def run(self, **more: Any) -> dict[str, Any]:
        result: dict[str, Any] = outcome(backup.main, **self.given(**more))
        return result


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if not POSTGRES.exists():
        pytest.skip("needs PostgreSQL: install postgresql")
    with postgres() as url:
        yield url


@pytest.fixture
def empty(url: str, tmp_path: Path) -> Iterator[Database]:
    with new_database(url) as database:
        yield Database(database, tmp_path)


@pytest.fixture
def database(empty: Database) -> Database:
    empty.sql(TABLES + OTHERS)
    return empty


@pytest.fixture
def elsewhere(empty: Database) -> Database:
    """Prefect's tables are in a schema of their own, and public has a table of the same name as one of them."""
    name = urlsplit(empty.url).path[1:]
    empty.sql(f"CREATE SCHEMA prefect; ALTER DATABASE {name} SET search_path TO prefect, public;")
    empty.sql(TABLES + OTHERS.replace("TYPE currency", "TYPE public.currency"))
    empty.sql("CREATE TABLE public.log (line text); INSERT INTO public.log VALUES ('not of Prefect');")
    return empty


def test_restored_as_it_was_with_others_left_alone(database: Database) -> None:
    made = database.run()
    path = Path(made["path"])
    assert "_27d8f4e1a6c9_" in path.name and database.run(state="listed")["backups"][0]["checked"]
    # What a newer version has made, and what others have done since.
    database.sql("DELETE FROM flow_run; INSERT INTO flow (name) VALUES ('second'); CREATE TABLE worker (id int);")
    database.sql("UPDATE accounting SET amount = 200;")
    restored = database.run(state="restored", restore="latest")
    assert restored["restored"] == str(path), restored
    assert database.sql("SELECT count(*) FROM flow_run WHERE state = 'RUNNING'; SELECT name FROM flow;").split(
        "\n"
    ) == [
        "2000",
        "first",
        "tab\tand",
        "line",
    ]
    assert database.sql("SELECT to_regclass('worker') IS NULL, amount, one() FROM accounting;") == "t|200|1"
    assert database.sql("INSERT INTO flow (name) VALUES ('next') RETURNING id;") == "3"
    assert (
        database.sql("SELECT count(*) FROM pg_indexes WHERE indexname IN ('ix_flow_run__state', 'ix_accounting');")
        == "2"
    )
    assert database.run(state="restored", restore="latest")["restored"] == str(path)
    assert database.run(state="restored", restore=restored["path"]).get("failed") is None
    assert database.sql("SELECT count(*) FROM flow;") == "3"


@pytest.mark.parametrize("place", ["database", "elsewhere"])
def test_the_revision_of_the_schema(request: pytest.FixtureRequest, place: str) -> None:
    database: Database = request.getfixturevalue(place)
    secured = database.run(state="secured")
    database.sql("UPDATE alembic_version SET version_num = 'a3b9c7d2e5f1'")
    assert (secured["revision"], database.run(state="checked")["revision"]) == ("27d8f4e1a6c9", "a3b9c7d2e5f1")
    database.sql("DROP TABLE alembic_version")
    assert database.run(state="checked")["revision"] == ""


@pytest.mark.parametrize("place", ["database", "elsewhere"])
def test_emptied_of_prefects_tables_only(request: pytest.FixtureRequest, place: str) -> None:
    database: Database = request.getfixturevalue(place)
    emptied = database.run(state="emptied")
    assert Path(emptied["path"]).parent.name == "safety"
    left = "SELECT count(to_regclass(name)) FROM unnest(ARRAY['alembic_version', 'flow', 'flow_run']) AS name;"
    assert database.sql(left) == "0"
    assert database.sql("SELECT amount FROM accounting;") == "100"
    if place == "elsewhere":
        assert database.sql("SELECT line FROM public.log;") == "not of Prefect"
    assert database.run(state="emptied")["path"] is None
    assert database.run(state="restored", restore=emptied["path"]).get("failed") is None
    assert database.sql("SELECT count(*) FROM flow_run;") == "2000"


def test_the_settings_of_the_server_say_which_schema(empty: Database) -> None:
    empty.sql("CREATE SCHEMA prefect; SET search_path TO prefect;" + TABLES)
    assert "has the server ever run?" in empty.run()["msg"]
    assert empty.run(search_path="prefect,public")["path"]
    assert empty.run(search_path="prefect,public", state="emptied")["path"]
    assert empty.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'prefect';") == "0"


def test_a_view_of_others_is_not_dropped(database: Database) -> None:
    database.sql("CREATE VIEW report AS SELECT count(*) FROM flow_run;")
    refused = database.run(state="emptied")
    assert "nothing has changed" in refused["msg"] and "view report depends on table flow_run" in refused["msg"]
    assert database.sql("SELECT * FROM report;") == "2000"


NEWER = """
CREATE TABLE deployment_label (id int PRIMARY KEY, flow_id int REFERENCES flow);
INSERT INTO deployment_label SELECT n, 1 FROM generate_series(1, 500) AS n;
"""


@pytest.mark.parametrize("state", ["present", "secured", "checked", "restored", "emptied"])
def test_a_table_that_a_newer_prefect_has_linked_with_its_own_is_refused(database: Database, state: str) -> None:
    """The backup would lack its rows, and no restore could drop what it refers to."""
    more = {"restore": database.run()["path"]} if state == "restored" else {}
    database.sql(NEWER)
    said = database.run(state=state, **more)
    assert "public.deployment_label belongs to Prefect's user and is linked" in said["msg"], said
    assert "update this collection" in said["msg"]
    assert database.sql("SELECT count(*) FROM deployment_label;") == "500"
    assert database.sql("SELECT count(*) FROM flow_run;") == "2000"
    assert not list(database.directory.glob("**/*.partial"))


def test_a_table_that_prefects_own_refer_to_is_refused(database: Database) -> None:
    database.sql("CREATE TABLE label (id int PRIMARY KEY); ALTER TABLE flow_run ADD label int REFERENCES label;")
    assert "public.label belongs to Prefect's user" in database.run()["msg"]


def test_foreign_keys_of_others_are_no_matter_of_a_backup_but_of_a_restore(database: Database) -> None:
    database.sql("CREATE SCHEMA reports; CREATE TABLE reports.one (flow_id int REFERENCES flow);")
    path = database.run()["path"]
    assert path
    for state in ("checked", "restored"):
        assert "another owner's tables (reports.one) depend" in database.run(state=state, restore=path)["msg"]


def test_tables_that_a_newer_version_may_have_created_are_named(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process gives each warning once, whichever test caused it.
    said: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text, **_options: said.append(text))
    assert database.run(version=databases.NEWEST)["path"] and not said
    assert database.run(version="3.10.0")["path"]
    assert ["If it has created public.accounting in" in text for text in said] == [True]


@pytest.fixture
def shared(empty: Database) -> Iterator[Database]:
    """A database with two owners in one schema, each without rights on the tables and sequences of the other."""
    empty.sql("CREATE ROLE flows LOGIN; CREATE ROLE shop LOGIN; GRANT ALL ON SCHEMA public TO flows, shop;")
    yield empty
    empty.sql("DROP OWNED BY flows, shop CASCADE; DROP ROLE flows; DROP ROLE shop;")


@pytest.mark.parametrize("kind", ["serial", "int GENERATED ALWAYS AS IDENTITY"])
def test_sequences_of_others_are_left_out(shared: Database, kind: str) -> None:
    shared.sql(
        f"SET ROLE shop; CREATE TABLE orders (id {kind}, amount int); CREATE SEQUENCE alone;"
        "INSERT INTO orders (amount) VALUES (1); SELECT nextval('alone');"
    )
    shared.sql("SET ROLE flows;" + TABLES)
    path = shared.run(user="flows").get("path")
    assert path, shared.run(user="flows")
    shared.sql("DELETE FROM flow_run; SET ROLE shop; INSERT INTO orders (amount) VALUES (2);")
    assert shared.run(user="flows", state="restored", restore=path).get("failed") is None
    assert shared.sql("SELECT count(*) FROM flow_run;") == "2000"
    assert shared.sql("SET ROLE flows; INSERT INTO flow (name) VALUES ('next') RETURNING id;") == "3"
    assert shared.sql("SET ROLE shop; SELECT max(id) FROM orders; SELECT nextval('alone');") == "2\n2"


def test_databases_of_one_name_share_a_directory_and_nothing_in_it(database: Database, url: str) -> None:
    """The second is created in place of the first, and could be in another cluster."""
    name = urlsplit(database.url).path[1:]
    first = database.run()["path"]
    assert database.run(state="checked", restore="latest")["restored"] == first
    for sql in (f"DROP DATABASE {name} WITH (FORCE);", f"CREATE DATABASE {name};"):
        Database(url, database.directory).sql(sql)
    assert f"installed again: {Path(first).name}" in database.run(state="checked", restore="latest")["msg"]
    database.sql(TABLES)
    second = database.run(keep=1)
    assert second["removed"] == [] and Path(first).exists()
    assert database.run(state="checked", restore="latest")["restored"] == second["path"]
    assert database.run(state="restored", restore=Path(first).name)["restored"] == first
    # A list needs no database.
    listed = database.run(state="listed", port=1)["backups"]
    assert [each["name"] for each in listed if not each["safety"]] == [Path(first).name, Path(second["path"]).name]


def test_a_cluster_that_does_not_say_which_it_is(database: Database) -> None:
    function = "FUNCTION pg_control_system() FROM PUBLIC"
    database.sql("CREATE ROLE plain LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO plain;")
    database.sql(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO plain; REVOKE EXECUTE ON {function};")
    try:
        made = database.run(user="plain")
        assert backups.read(Path(made["path"])).origin.identity == ""
        assert database.run(state="checked", restore="latest")["restored"] == made["path"]
    finally:
        database.sql("DROP OWNED BY plain; DROP ROLE plain;")


@pytest.mark.parametrize("name", ["my schema", "Mixed", "a-b", "a.b", 'a"b', "TABLE DATA", "flow run", "a(b)*", "é"])
def test_a_schema_may_have_any_name(empty: Database, name: str) -> None:
    quoted = databases.identifier(name)
    empty.sql(f"CREATE SCHEMA {quoted}; SET search_path TO {quoted};" + TABLES)
    made = empty.run(search_path=quoted)
    assert backups.read(Path(made["path"])).rows == {"alembic_version": 1, "flow": 2, "flow_run": 2000}
    empty.sql(f"DELETE FROM {quoted}.flow_run;")
    restored = empty.run(search_path=quoted, state="restored", restore="latest")
    assert restored.get("restored") == made["path"], restored
    assert empty.sql(f"SELECT count(*) FROM {quoted}.flow_run;") == "2000"
    assert empty.sql(f"SET search_path TO {quoted}; INSERT INTO flow (name) VALUES ('next') RETURNING id;") == "3"
    empty.sql(f"DROP SCHEMA {quoted} CASCADE; CREATE SCHEMA other; SET search_path TO other;" + TABLES)
    refused = empty.run(search_path="other", state="checked", restore=made["path"])
    assert f"has Prefect's tables in {name}, and the database" in refused["msg"]


@pytest.mark.parametrize("victim", ["backup", "pg_restore", "psql"])
def test_a_restore_that_is_killed_changes_nothing(database: Database, victim: str) -> None:
    path = database.run()["path"]
    database.sql("DELETE FROM flow_run WHERE id > 35;")
    database.sql("CREATE TABLE gate (id int);")
    holder = subprocess.Popen([str(POSTGRES / "psql"), "-q", database.url], stdin=subprocess.PIPE, text=True)
    assert holder.stdin
    # The restore waits for this before it drops the table.
    holder.stdin.write("BEGIN; LOCK TABLE flow_run IN ACCESS SHARE MODE;\n")
    holder.stdin.flush()
    child = os.fork()
    if not child:
        os.setsid()
        try:
            database.run(state="restored", restore=path, safety=False)
        finally:
            os._exit(0)
    try:
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted;"
        deadline = time.monotonic() + 60
        while database.sql(waiting) == "0":
            assert time.monotonic() < deadline, "the restore did not get to the tables"
            time.sleep(0.05)
        if victim == "backup":
            os.kill(child, signal.SIGKILL)
        else:
            children = Path(f"/proc/{child}/task/{child}/children").read_text().split()
            named = [pid for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == victim]
            os.kill(int(named[0]), signal.SIGKILL)
    finally:
        holder.stdin.close()
        holder.wait()
        os.waitpid(child, 0)
    deadline = time.monotonic() + 60
    active = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();"
    while database.sql(active) != "0":
        assert time.monotonic() < deadline, "a session did not end"
        time.sleep(0.05)
    assert database.sql("SELECT count(*) FROM flow_run;") == "35"
    assert database.run(state="restored", restore=path).get("failed") is None
    assert database.sql("SELECT count(*) FROM flow_run;") == "2000"


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_backup_that_was_cut_is_refused(database: Database, kept: float, manifest: bool) -> None:
    path = Path(database.run()["path"])
    if not manifest:
        Path(f"{path}.json").unlink()
    os.truncate(path, int(path.stat().st_size * kept))
    refused = database.run(state="checked", restore=path.name)
    assert refused["failed"] and str(path) in refused["msg"], refused


def test_what_is_no_backup_is_refused(database: Database) -> None:
    text = database.directory / "text.dump"
    text.write_text("no archive\n" * 100)
    assert "is no good backup of a PostgreSQL database" in database.run(state="checked", restore="text.dump")["msg"]
    database.sql("DROP TABLE flow_run, flow, alembic_version;")
    other = database.directory / "other.dump"
    subprocess.run([POSTGRES / "pg_dump", "--format=custom", f"--file={other}", database.url], check=True)
    assert "has no revision" in database.run(state="checked", restore="other.dump")["msg"]


def test_a_client_that_is_too_old_is_refused_with_the_package(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    major = database.sql("SELECT current_setting('server_version_num')::int / 10000;")
    old = database.directory / "old"
    old.mkdir()
    for name in ("pg_dump", "pg_restore", "psql"):
        (old / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) 9.6.1'; [ \"$1\" = --version ]\n")
        (old / name).chmod(0o755)
    monkeypatch.setattr(databases, "CLIENTS", ())
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{old}:/bin")
    refused = database.run()
    assert "9 in" in refused["msg"] and f"install the package postgresql-client-{major}" in refused["msg"]
    # Without psql, which only a restore needs.
    only = database.directory / major / "bin"
    only.mkdir(parents=True)
    for name in ("pg_dump", "pg_restore"):
        (only / name).symlink_to(POSTGRES / name)
    monkeypatch.setattr(databases, "CLIENTS", (f"{database.directory}/*/bin",))
    made = database.run()
    monkeypatch.setenv("PATH", str(database.directory))
    assert "psql is needed" in database.run(state="checked", restore="latest")["msg"]
    monkeypatch.setenv("PATH", path)
    assert database.run(state="checked", restore="latest")["restored"] == made["path"]


def test_the_password_is_not_on_a_command_line(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    started = subprocess.Popen.__init__

    def note(self: Any, words: list[str], *more: Any, **options: Any) -> None:
        seen.append(words)
        started(self, words, *more, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", note)
    database.run()
    database.run(state="restored", restore="latest")
    assert seen and not [words for words in seen if "s3cret" in " ".join(map(str, words))]


def test_nothing_that_a_database_says_is_a_traceback(database: Database) -> None:
    assert "nothing listens" in database.run(port=1)["msg"] or "refused" in database.run(port=1)["msg"].lower()
    assert "does not exist" in database.run(database="no such")["msg"]


def test_the_tables_of_every_release_are_known(server: PrefectServer) -> None:
    """Those that are not would be in no backup."""
    if not server.database:
        pytest.skip("a SQLite file is Prefect's alone")
    ask = [str(POSTGRES / "psql"), "-qAt", server.database, "--command"]
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    types = "SELECT typname FROM pg_type WHERE typtype = 'e' AND typnamespace = 'public'::regnamespace"
    for sql, known in ((tables, databases.TABLES), (types, databases.TYPES)):
        found = subprocess.run([*ask, sql], capture_output=True, text=True, check=True).stdout.split()
        assert found and set(found) <= known
