"""A backup is proven by a scratch server of the same release, and nothing of that is left, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import databases, proofs
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.proofs import Place
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost import backup as backup_program
from ansible_collections.selfhosted.prefect.plugins.modules import host_backup as backup
from conftest import RELEASES, PrefectServer
from fake_api import outcome
from local_servers import POSTGRES

pytestmark = pytest.mark.parametrize("server", RELEASES, ids=str, indirect=True)

SECRET = "s3cret-of-a-block"
OTHER_KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
RUN = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.selfhosted.prefect.plugins.modules import host_backup as backup
with patch_module_args(json.loads(sys.argv[1])):
    backup.main()
"""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A server's database, and a place for its backups and their proofs."""

    server: PrefectServer
    directory: Path
    settings: Path

    @property
    def scratch(self) -> Path:
        return self.directory / "scratch"

    @property
    def version(self) -> str:
        return ".".join(map(str, self.server.version))

    def proof(self, **more: Any) -> dict[str, Any]:
        given = {"release": self.server.python.parents[1], "settings": self.settings, "scratch": self.scratch}
        return {name: str(value) for name, value in {**given, **more}.items()}

    def options(self, **more: Any) -> dict[str, Any]:
        place = {"directory": str(self.directory / "backups"), "instance": "prefect", "server": "one"}
        given: dict[str, Any] = {**place, "version": self.version, "verify": True, "proof": self.proof()}
        if self.server.database:
            parts = urlsplit(self.server.database)
            given |= {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password}
            given |= {"database": parts.path[1:]}
        else:
            given |= {"sqlite": str(self.server.home / "prefect.db")}
        return given | more

    def run(self, **more: Any) -> dict[str, Any]:
        result: dict[str, Any] = outcome(backup.main, **self.options(**more))
        return result

    def sql(self, text: str) -> str:
        """Run a statement in the database, beside the server."""
        if self.server.database:
            psql = [str(POSTGRES / "psql"), "-qAt", "--set=ON_ERROR_STOP=1", self.server.database, "--command", text]
            return subprocess.run(psql, capture_output=True, text=True, check=True).stdout.strip()
        with contextlib.closing(sqlite3.connect(self.server.home / "prefect.db", timeout=60)) as database:
            found = database.execute(text).fetchall()
            database.commit()
        return "\n".join("|".join(map(str, row)) for row in found)

    def left(self) -> list[str]:
        """Return what is left of a proof: files, processes and databases."""
        found = [str(self.scratch)] if self.scratch.exists() else []
        found += [f"process {pid}" for pid in proofs.processes(Place.of(self.proof()))]
        if self.server.database:
            found += self.sql(r"SELECT datname FROM pg_database WHERE datname LIKE '%\_proof'").split()
        return found

    def manifest(self, path: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(Path(f"{path}.json").read_text())
        return read

    def unproven(self) -> str:
        """Make a backup that is still to be proven, and return its path."""
        known = set(self.directory.glob("backups/*.json"))
        made = self.run(proof=release_of(self, "exit 1"))
        assert "is kept, and is not proven" in made["msg"], made
        (manifest,) = set(self.directory.glob("backups/*.json")) - known
        return str(manifest).removesuffix(".json")

    def spoiled(self, change: list[str], back: list[str], *, table: str = "") -> str:
        """Make a backup of a changed database whose manifest has the rows of a table as they were before."""
        before = self.manifest(self.unproven()) if table else {}
        for statement in change:
            self.sql(statement)
        path = self.unproven()
        for statement in back:
            self.sql(statement)
        manifest = self.manifest(path)
        for field in ("rows", "digests") if table else ():
            manifest[field][table] = before[field][table]
        Path(f"{path}.json").write_text(json.dumps(manifest))
        return path


@pytest.fixture
def instance(server: PrefectServer, tmp_path: Path) -> Iterator[Instance]:
    """A server with objects of every kind, whose settings name a Redis that does not exist."""
    settings = {"PREFECT_REDIS_MESSAGING_HOST": "redis.invalid", "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging"}
    if server.database:
        url = server.database.replace("postgresql:", "postgresql+asyncpg:")
        settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
    file = tmp_path / "server.env"
    file.write_text("".join(f'{name}="{value}"\n' for name, value in settings.items()))
    with server.api() as api:
        if not api.find("/variables/name/proof"):
            create(server)
    yield Instance(server=server, directory=tmp_path, settings=file)


def create(server: PrefectServer) -> None:
    """Create an object of every kind."""
    with server.api() as api:
        api.post("/variables/", {"name": "proof", "value": {"a": "ü\n"}, "tags": []})
        flow = api.post("/flows/", {"name": "proof"})["id"]
        api.post("/work_pools/", {"name": "proof", "type": "process"})
        schedule = {"schedule": {"interval": 86400}, "active": True}
        described = {"name": "proof", "flow_id": flow, "work_pool_name": "proof", "schedules": [schedule]}
        deployment = api.post("/deployments/", described)["id"]
        for _ in range(3):
            api.post(f"/deployments/{deployment}/create_flow_run", {})
        api.post("/concurrency_limits/", {"tag": "proof", "concurrency_limit": 2})
        api.post("/v2/concurrency_limits/", {"name": "proof", "limit": 2})
        trigger = {"type": "event", "posture": "Reactive", "expect": ["no.such.event"], "threshold": 1, "within": 0}
        api.post("/automations/", {"name": "proof", "trigger": trigger, "actions": [{"type": "do-nothing"}]})
        kind = api.get("/block_types/slug/secret")["id"]
        (schema, *_) = api.post("/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind]}}})
        document = {"name": "proof", "block_type_id": kind, "block_schema_id": schema["id"]}
        api.post("/block_documents/", {**document, "data": {"value": SECRET}})


def test_a_good_backup_is_proven_while_others_write(instance: Instance) -> None:
    record, ends = instance.directory / "record", threading.Event()

    def write() -> None:
        with instance.server.api() as api:
            while not ends.is_set():
                api.post("/variables/", {"name": f"later_{time.time_ns()}", "value": 1, "tags": []})

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            made = instance.run(record=str(record))
        finally:
            ends.set()
            writing.result()
    assert made.get("proven"), made["msg"]
    assert int(instance.sql("SELECT count(*) FROM variable")) > instance.manifest(made["path"])["rows"]["variable"] > 0
    assert instance.manifest(made["path"])["proven"] and not instance.manifest(made["path"])["unproven"]
    listed = instance.run(state="listed")
    assert listed["backups"][0]["proven"] and listed["backups"][0]["latest"] and "proven 2" in listed["table"][0]
    noted = json.loads(record.read_text())
    assert noted["proven"] >= noted["made"] == noted["newest_proven"]
    assert instance.left() == []


def release_of(instance: Instance, script: str) -> dict[str, Any]:
    """Describe a proof with another program in the place of Prefect."""
    program = instance.directory / "release/bin/prefect"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return instance.proof(release=instance.directory / "release")


def with_key(instance: Instance) -> dict[str, Any]:
    """Describe a proof by the settings of a server that has another key."""
    instance.settings.write_text(instance.settings.read_text() + f'PREFECT_SERVER_ENCRYPTION_KEY="{OTHER_KEY}"\n')
    return instance.proof()


def rows_missing(instance: Instance) -> str:
    return instance.spoiled(
        ["CREATE TABLE kept AS SELECT * FROM deployment_schedule", "DELETE FROM deployment_schedule"],
        ["INSERT INTO deployment_schedule SELECT * FROM kept", "DROP TABLE kept"],
        table="deployment_schedule",
    )


def rows_changed(instance: Instance) -> str:
    names = ["UPDATE variable SET name = name || '_x'", "UPDATE variable SET name = replace(name, '_x', '')"]
    return instance.spoiled(names[:1], names[1:], table="variable")


def unknown_schema(instance: Instance) -> str:
    revision = ["'x' || version_num", "substr(version_num, 2)"]
    there, back = (f"UPDATE alembic_version SET version_num = {each}" for each in revision)
    return instance.spoiled([there], [back])


Spoil = Callable[[Instance], str]
BAD: dict[str, tuple[Spoil, Callable[[Instance], dict[str, Any]], str]] = {
    "rows are missing": (
        rows_missing,
        Instance.proof,
        "the table deployment_schedule has 0 rows when restored, and had 1 when the backup was made",
    ),
    "rows are others": (
        rows_changed,
        Instance.proof,
        "the table variable has other rows when restored than when the backup was made",
    ),
    "no release knows its schema": (unknown_schema, Instance.proof, "Can't locate revision identified by 'x"),
    "the server does not boot": (
        Instance.unproven,
        lambda instance: release_of(instance, "echo ImportError: no; exit 3"),
        "the scratch server ended at its start: ImportError: no",
    ),
    "its secrets cannot be read": (Instance.unproven, with_key, "/block_documents/filter: 500"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_backup_is_kept_with_the_reason_and_is_not_the_latest(instance: Instance, what: str) -> None:
    make, proof, says = BAD[what]
    good = instance.run(verify=False)["path"]
    path = make(instance)
    result = instance.run(state="proven", restore=path, proof=proof(instance))
    assert result["failed"] and says in result["msg"], result["msg"]
    assert SECRET not in result["msg"] and (not instance.server.database or "s3cret" not in result["msg"])
    assert instance.left() == []
    manifest = instance.manifest(path)
    assert says in manifest["unproven"] and not manifest["proven"]
    listed = {each["name"]: each["latest"] for each in instance.run(state="listed")["backups"]}
    assert listed[Path(good).name] and not listed[Path(path).name]


def test_a_failed_proof_removes_no_older_backup_and_is_copied_away(instance: Instance) -> None:
    old = instance.run(verify=False)["path"]
    record, away = instance.directory / "record", instance.directory / "away"
    record.write_text(json.dumps({"newest_proven": "2026-01-02T03:04:05+00:00"}))
    away.mkdir()
    command = ["/bin/sh", "-c", f'cp "$1" "$1.json" {away}', "copy"]
    bad = release_of(instance, "exit 1")
    failed = instance.run(keep=1, proof=bad, command=command, record=str(record))
    assert failed["failed"] and "the scratch server ended at its start" in failed["msg"]
    assert Path(old).exists() and len(list(away.iterdir())) == 2
    noted = json.loads(record.read_text())
    assert noted["unproven"] and not noted["proven"] and noted["newest_proven"] == "2026-01-02T03:04:05+00:00"
    assert len(instance.run(keep=1, verify=False)["removed"]) == 2 and not Path(old).exists()


def test_a_scratch_server_gets_the_database_and_the_key_only(instance: Instance) -> None:
    """No secret is on its command line, and no other account can read it."""
    said = instance.directory / "said"
    with_key(instance)
    script = f"env > {said}; tr '\\0' ' ' < /proc/$$/cmdline >> {said}.words; ls -lR {instance.scratch} > {said}.files"
    assert instance.run(proof=release_of(instance, f"{script}; exit 1"))["failed"]
    environment = dict(line.split("=", 1) for line in said.read_text().splitlines() if "=" in line)
    taken = {name for name in environment if name.startswith(("PREFECT_REDIS", "PREFECT_MESSAGING"))}
    assert not taken and environment["PREFECT_SERVER_ENCRYPTION_KEY"] == OTHER_KEY
    token = environment["PREFECT_SERVER_API_AUTH_STRING"]
    assert token.startswith("proof:") and environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    words = Path(f"{said}.words").read_text()
    assert "--no-services" in words and token not in words and "s3cret" not in words
    if instance.server.database:
        assert urlsplit(environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"]).path.endswith("_proof")
    modes = {line.split()[0] for line in Path(f"{said}.files").read_text().splitlines() if line.startswith("-")}
    assert modes and not [mode for mode in modes if mode[7:10] != "---"], modes


NEXT: dict[str, dict[str, Any]] = {"a backup": {"verify": False}, "a proof": {}, "a removal": {"state": "cleared"}}


@pytest.mark.parametrize("follows", NEXT)
def test_what_a_killed_proof_left_is_removed_by_the_next(instance: Instance, follows: str) -> None:
    options = instance.options(proof=release_of(instance, "exec sleep 600"))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / ".collections")}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(options)], env=environment, start_new_session=True
    )
    deadline = time.monotonic() + 180
    while len(instance.left()) < (3 if instance.server.database else 2):
        assert process.poll() is None and time.monotonic() < deadline, instance.left()
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(instance.left()) == (3 if instance.server.database else 2)
    result = instance.run(**NEXT[follows])
    assert not result.get("failed"), result
    assert result["changed"] and instance.left() == []
    assert bool(result.get("proven")) is (follows == "a proof")


def test_a_timer_that_is_stopped_leaves_nothing(instance: Instance) -> None:
    options = instance.options(proof=release_of(instance, "exec sleep 600"), release="/nowhere/3.8.8-0123456789ab")
    password, _ = options.pop("password", ""), options.pop("version")
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).resolve().parents[2] / ".collections"),
        databases.OPTIONS: json.dumps(options),
        "PREFECT_SERVER_DATABASE_PASSWORD": password,
    }
    main = f"import sys; from {backup_program.__name__} import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", main], env=environment, start_new_session=True)
    deadline = time.monotonic() + 180
    while not instance.left() or not proofs.processes(Place.of(instance.proof())):
        assert process.poll() is None and time.monotonic() < deadline, instance.left()
        time.sleep(0.1)
    process.terminate()
    assert process.wait() == 143 and instance.left() == []


def test_another_owners_database_is_not_dropped(instance: Instance) -> None:
    if not instance.server.database:
        pytest.skip("a SQLite database is a file")
    name = f"{urlsplit(instance.server.database).path[1:]}_proof"
    instance.sql(f"CREATE DATABASE {name}")
    try:
        refused = instance.run()
        assert f"needs the name {name}, and another owner's database has it" in refused["msg"], refused
        assert instance.left() == [name]
    finally:
        instance.sql(f"DROP DATABASE {name}")


def test_a_user_who_may_not_create_a_database_is_told(instance: Instance) -> None:
    if not instance.server.database:
        pytest.skip("a SQLite database is a file")
    instance.sql("CREATE ROLE poor LOGIN")
    instance.sql("GRANT pg_read_all_data TO poor")
    try:
        refused = instance.run(user="poor")
        assert 'poor may not create it: run ALTER ROLE "poor" CREATEDB' in refused["msg"], refused
        assert instance.left() == []
    finally:
        instance.sql("DROP ROLE poor")
