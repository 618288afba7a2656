"""Every example flow runs green: on its own, and deployed to a server with a worker.

PREFECT_TEST_PYTHON names the Python of a release, with Prefect in it. Where PREFECT_API_URL is set as well, that
server is used, with its worker and with deployments that its own deploy.py has registered; otherwise the tests start
a server and a worker of their own.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from server import END, PYTHON, SECONDS, Api, alone, needs_release, started, until

EXAMPLES = Path(__file__).resolve().parents[2] / "roles/prefect_flows/files/examples"

pytestmark = needs_release

# What each example prints, run alone or deployed.
OUTPUT = {
    "hello_flow": "Hello, world!",
    "data_pipeline": "3 shops, revenue",
    "scheduled_flow": "is ready",
    "approval_flow": "Released 1.0",
    "database_sync": "rows to data/target.db",
}


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, since they write beside themselves."""
    return Path(shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("flows"), dirs_exist_ok=True))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Prefect has no server and a home of its own, and sends no telemetry."""
    return dict(alone(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def api(environment: dict[str, str], flows: Path) -> Iterator[Api]:
    """A function `api(method, path, body)` that returns the answer of a server which has the deployments."""
    if url := os.environ.get("PREFECT_API_URL"):
        yield Api(url)
        return
    with started(environment, flows) as call:
        environment = environment | {"PREFECT_API_URL": call.url}
        subprocess.run([PYTHON, "deploy.py"], env=environment, cwd=flows, check=True, timeout=SECONDS)
        yield call


@pytest.mark.parametrize("example", OUTPUT)
def test_runs_alone(example: str, environment: dict[str, str], flows: Path) -> None:
    output = _run(f"{example}.py", environment=environment, flows=flows)
    assert OUTPUT[example] in output
    assert "Finished in state Completed()" in output


def test_pipeline_fetches_only_once(environment: dict[str, str], flows: Path) -> None:
    """The day is one that no other test has cached."""
    call = "data_pipeline(day=date(2026, 1, 5))"
    output = _run(
        "-c",
        f"from datetime import date; from data_pipeline import *; {call}; {call}",
        environment=environment,
        flows=flows,
    )
    assert output.count("does not answer") == 1
    assert output.count("Finished in state Cached(type=COMPLETED)") == 3


def test_sync_follows_the_source(environment: dict[str, str], flows: Path) -> None:
    """A changed row arrives, a row that is gone from the source stays, and repeating it changes nothing."""
    with closing(sqlite3.connect(flows / "shop.db")) as source, source:
        source.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, updated_at TEXT)")
        source.execute("INSERT INTO customers VALUES (2, 'Grace Hopper', '2026-02-01T00:00:00Z')")
    target, call = "target=Path('copy.db')", "database_sync(source=Path('shop.db'), target=Path('copy.db'))"
    _run(
        "-c",
        f"from database_sync import *; database_sync({target}); {call}; {call}",
        environment=environment,
        flows=flows,
    )
    with closing(sqlite3.connect(flows / "copy.db")) as database:
        rows = database.execute("SELECT id, name FROM customers ORDER BY id").fetchall()
    assert rows == [(1, "Ada"), (2, "Grace Hopper")]


def test_runs_deployed(api: Api) -> None:
    """All at once, as one worker does it, and a person answers the one that asks."""
    names = {example: example.replace("_", "-") for example in OUTPUT}
    deployments = {example: api("GET", f"/deployments/name/{name}/example") for example, name in names.items()}
    runs = {
        example: api("POST", f"/deployments/{deployment['id']}/create_flow_run", {})["id"]
        for example, deployment in deployments.items()
    }
    asking = runs["approval_flow"]
    # A run is paused a moment before its form exists, and refuses an answer until then.
    answer = {"run_input": {"approved": True, "comment": "ship it"}}
    until(lambda: api("POST", f"/flow_runs/{asking}/resume", answer)["status"] == "ACCEPT", "approval_flow to ask")
    until(lambda: all(api.state(run) in END for run in runs.values()), "every run to end")
    assert {example: api.state(run) for example, run in runs.items()} == dict.fromkeys(runs, "COMPLETED")
    until(lambda: all(OUTPUT[example] in api.log(run) for example, run in runs.items()), "every run's output")
    crons = {
        example: schedule["schedule"]["cron"]
        for example, deployment in deployments.items()
        for schedule in deployment["schedules"]
    }
    assert crons == {"scheduled_flow": "0 6 * * *", "database_sync": "0 2 * * *"}


def test_schedules_are_planned(api: Api) -> None:
    deployment = api("GET", "/deployments/name/scheduled-flow/example")
    planned = {
        "deployments": {"id": {"any_": [deployment["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    until(lambda: api("POST", "/flow_runs/count", planned) > 0, "the scheduler to plan runs")


@pytest.mark.skipif("PREFECT_API_URL" in os.environ, reason="the server of PREFECT_API_URL has its own deployments")
def test_deploying_again_keeps_the_schedule(api: Api, environment: dict[str, str], flows: Path) -> None:
    path = "/deployments/name/scheduled-flow/example"
    before = [schedule["id"] for schedule in api("GET", path)["schedules"]]
    _run("deploy.py", environment=environment | {"PREFECT_API_URL": api.url}, flows=flows)
    assert [schedule["id"] for schedule in api("GET", path)["schedules"]] == before


def _run(*arguments: str, environment: dict[str, str], flows: Path) -> str:
    """Run the release's Python in `flows` and return its output; it must end with exit code 0."""
    command = [str(PYTHON), *arguments]
    done = subprocess.run(
        command,
        env=environment,
        cwd=flows,
        timeout=SECONDS,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
