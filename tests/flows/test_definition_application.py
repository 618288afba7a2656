"""An application starts and stops its runners beside a scheduler of its own; and 200 generated flows are real flows."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import PYTHON, SECONDS, Api, alone, needs_release, started, until

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "roles/prefect_definitions/files/definitions"

pytestmark = needs_release

TICKETS = """
import asyncio

class ProcessTickets:
    def __init__(self, queue): self.queue = queue
    def run(self): print(f"looking into {self.queue}"); return f"{self.queue} is empty"

async def count(start=1): await asyncio.sleep(0.1); return start + 1

def fail(): raise ValueError("no tickets")
"""

RUNNERS = """
prefect_runners:
  - {id: ticket_processor, use: "tickets:ProcessTickets", with: {queue: my-queue}, interval_seconds: 5, retries: 2}
  - {id: by_hand, use: "tickets:count", interval_seconds: 0}
  - {id: failing, use: "tickets:fail", interval_seconds: 0}
"""

# What such an application looks like: a loop and a thread of its own, which have to go on undisturbed.
APPLICATION = """
import asyncio, sys, threading, time
sys.path.insert(0, PACKAGE)
from prefect_definitions.application import Application

async def main():
    ticks = []
    async def own_scheduler():
        while True:
            ticks.append(time.monotonic()); await asyncio.sleep(0.2)
    own = asyncio.create_task(own_scheduler())
    application = Application("runners.yml")
    await asyncio.to_thread(application.start)
    assert application.running
    print("result:", await application.run_once("ticket_processor"), await application.run_once("by_hand"), flush=True)
    try:
        await application.run_once("failing")
    except Exception as error:
        print("error:", error, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.to_thread(application.stop)
    assert not application.running
    own.cancel()
    print("ticks:", len(ticks) > 20, threading.active_count() < 50, flush=True)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return dict(alone(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def api(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with started(environment, tmp_path_factory.mktemp("server")) as call:
        environment["PREFECT_API_URL"] = call.url
        yield call


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "tickets.py").write_text(TICKETS)
    (tmp_path / "runners.yml").write_text(RUNNERS)
    return tmp_path


def completed(api: Api, flow: str) -> int:
    wanted = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    return int(api("POST", "/flow_runs/count", wanted))


def deployed(api: Api, flow: str) -> dict[str, object]:
    return dict(api("GET", f"/deployments/name/{flow}/{flow}"))


def test_an_application_starts_runs_and_stops(api: Api, environment: dict[str, str], home: Path) -> None:
    (home / "app.py").write_text(APPLICATION.replace("PACKAGE", repr(str(SHIPPED))))
    application = subprocess.Popen(
        [PYTHON, "app.py"], cwd=home, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert application.stdin and application.stdout
        until(lambda: completed(api, "ticket_processor") >= 3, "the interval to have come twice")
        application.stdin.write("stop\n")
        application.stdin.flush()
        output, _ = application.communicate(timeout=SECONDS)
    finally:
        application.kill()
    assert application.returncode == 0
    assert "result: my-queue is empty 2\n" in output
    assert "no tickets" in next(line for line in output.splitlines() if line.startswith("error: "))
    assert "ticks: True True\n" in output
    assert deployed(api, "ticket_processor")["paused"] is True


def test_serving_until_stopped(api: Api, environment: dict[str, str], home: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(SHIPPED)!r});"
        "from prefect_definitions.application import Application; Application('runners.yml').run()"
    )
    process = subprocess.Popen([PYTHON, "-c", script], cwd=home, env=environment)
    before = completed(api, "ticket_processor")
    try:
        until(lambda: completed(api, "ticket_processor") >= before + 2, "two more runs on their interval")
        assert deployed(api, "ticket_processor")["paused"] is False
    finally:
        process.terminate()
    assert process.wait(timeout=SECONDS) == 0
    assert deployed(api, "ticket_processor")["paused"] is True


def test_the_example_runs_as_it_stands(api: Api, environment: dict[str, str], tmp_path: Path) -> None:
    place = Path(shutil.copytree(ROOT / "docs/examples/tickets/flows", tmp_path / "tickets"))
    served = {"deployments": {"name": {"any_": ["ticket_processor"]}, "paused": {"eq_": False}}}
    before = completed(api, "ticket_processor")
    process = subprocess.Popen([PYTHON, "service.py"], cwd=place, env=environment | {"PYTHONPATH": str(SHIPPED)})
    try:
        until(lambda: bool(api("POST", "/deployments/filter", served)), "the runner to be served")
        (deployment,) = api("POST", "/deployments/filter", served)
        assert [each["schedule"]["interval"] for each in deployment["schedules"]] == [300]
        run = api("POST", f"/deployments/{deployment['id']}/create_flow_run", {})["id"]
        until(lambda: completed(api, "ticket_processor") > before, "the runner to run")
        until(lambda: "looking into my-queue" in api.log(run), "its output")
    finally:
        process.terminate()
    assert process.wait(timeout=SECONDS) == 0


def test_the_configuration_of_an_application_runs_as_it_stands(
    api: Api, environment: dict[str, str], tmp_path: Path
) -> None:
    """Served by its own process, which resolves a name by the application's factory, and run once beside that."""
    place = Path(shutil.copytree(ROOT / "docs/examples/helpdesk/flows", tmp_path / "helpdesk"))
    once = (
        "import asyncio; from helpdesk.wiring import make; from prefect_definitions.application import Application;"
        "print(asyncio.run(Application('config.yml', factory=make).run_once('escalation')))"
    )
    own = environment | {"PYTHONPATH": str(SHIPPED)}
    served = {"deployments": {"name": {"any_": ["ticket_processor", "escalation"]}, "paused": {"eq_": False}}}
    before = completed(api, "ticket_processor")
    process = subprocess.Popen([PYTHON, "service.py"], cwd=place, env=own)
    try:
        until(lambda: len(api("POST", "/deployments/filter", served)) == 2, "the runners to be served")
        deployment = deployed(api, "ticket_processor")
        run = api("POST", f"/deployments/{deployment['id']}/create_flow_run", {})["id"]
        done = subprocess.run([PYTHON, "-c", once], cwd=place, env=own, capture_output=True, text=True, timeout=SECONDS)
        assert "no ticket is older than 24 hours" in done.stdout, done.stderr[-3000:]
        until(lambda: completed(api, "ticket_processor") > before, "the runner to run")
        until(lambda: "looking into my-queue" in api.log(run), "its output")
    finally:
        process.terminate()
    assert process.wait(timeout=SECONDS) == 0


def test_generated_flows_are_flows(environment: dict[str, str], tmp_path: Path, api: Api) -> None:
    """Two hundred are built, and one of each shape is run, its tasks in an order that their needs allow."""
    place = Path(shutil.copytree(SHIPPED, tmp_path / "definitions"))
    generator = Path(__file__).resolve().parents[1] / "unit"
    script = f"""
import json, sys
sys.path[:0] = [{str(place)!r}, {str(generator)!r}]
from pathlib import Path
from generated import generated
from prefect import Flow
from prefect_definitions import directory
import definitions
data = generated(200)
directory.write(Path({str(place)!r}), data, paths=[])
built = [getattr(definitions, flow["name"]) for flow in data["prefect_flows"]]
assert all(isinstance(flow, Flow) for flow in built) and len({{flow.name for flow in built}}) == 200
for flow in built[:4]:
    results = flow()
    assert results == {{f"t{{place}}": place + 1 for place in range(len(results))}}, results
    print(flow.name, len(results))
"""
    done = subprocess.run(
        [PYTHON, "-c", script], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 4
