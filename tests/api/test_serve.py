"""The launcher of a server on SQLite, with a release's own SQLAlchemy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import PYTHONS
from local_servers import serve_launcher

# One connection finds the database locked and leaves its error to the garbage collector; it waits for its turn when
# that comes by, in the thread that could end the wait.
SCENE = """
import asyncio, gc, runpy, sys
from sqlalchemy.ext.asyncio import create_async_engine

async def main():
    gc.disable()
    engine = create_async_engine(f"sqlite+aiosqlite:///{sys.argv[2]}", connect_args={"timeout": 5})
    one, two = await engine.connect(), await engine.connect()
    for statement in ("PRAGMA journal_mode=WAL", "CREATE TABLE things (name)"):
        await one.exec_driver_sql(statement)
    await one.commit()
    for connection, mode in ((two, "DEFERRED"), (one, "IMMEDIATE")):
        await connection.exec_driver_sql(f"BEGIN {mode}")
        await connection.exec_driver_sql("SELECT * FROM things")
    await one.exec_driver_sql("INSERT INTO things VALUES (1)")
    await one.commit()
    try:
        await two.exec_driver_sql("INSERT INTO things VALUES (2)")
    except Exception as error:
        errors = [error]
        errors.append(errors)
    del errors
    await two.rollback()
    await one.exec_driver_sql("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(two.exec_driver_sql("BEGIN IMMEDIATE"))
    await asyncio.sleep(0.5)
    gc.collect()
    await one.commit()
    await waiting
    await two.rollback()
    print("it had its turn")
    for connection in (one, two):
        await connection.close()
    await engine.dispose()

runpy.run_path(sys.argv[1], run_name="launcher")
asyncio.run(main())
"""


SETTINGS = """
import runpy, sys
from fastapi import FastAPI
from fastapi.testclient import TestClient

runpy.run_path(sys.argv[1], run_name="launcher")
from prefect.server.api.admin import router

app = FastAPI()
app.include_router(router, prefix="/api")
answer = TestClient(app).get("/api/admin/settings")
assert answer.json()["server"]["api"]["port"] == 4321
print(answer.text)
"""


@pytest.mark.skipif(not PYTHONS, reason="PREFECT_TEST_PYTHONS is not set")
@pytest.mark.parametrize("python", PYTHONS, ids=lambda python: str(python.parents[1].name))
@pytest.mark.parametrize("split", [True, False])
def test_the_api_shows_no_credential_in_its_settings(python: Path, split: bool, tmp_path: Path) -> None:
    """Flows know the password of the API, and may not learn that of Redis from it."""
    environment = {
        "HOME": str(tmp_path),
        "PREFECT_API_AUTH_STRING": "admin:canary",
        "PREFECT_CLIENT_CUSTOM_HEADERS": '{"X-Any": "canary"}',
        "PREFECT_SERVER_API_AUTH_STRING": "admin:canary",
        "PREFECT_SERVER_API_PORT": "4321",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://any:canary@127.0.0.1:1/any",
        "PREFECT_SERVER_DOCKET_URL": "redis://:canary@127.0.0.1:1/1",
    }
    command = [str(python), "-c", SETTINGS, str(serve_launcher(tmp_path, split=split))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert '"X-Any"' in ended.stdout and "canary" not in ended.stdout


@pytest.mark.skipif(not PYTHONS, reason="PREFECT_TEST_PYTHONS is not set")
@pytest.mark.parametrize("python", PYTHONS, ids=lambda python: str(python.parents[1].name))
def test_a_connection_that_waits_for_a_lock_gets_its_turn(python: Path, tmp_path: Path) -> None:
    launcher = serve_launcher(tmp_path, split=False)
    command = [python, "-c", SCENE, launcher, tmp_path / "things.db"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
    assert ended.stdout == "it had its turn\n", ended.stderr
