"""Flows as data run as they say: on a real server, with real Celery workers, a real Redis and real databases.

The Python of PREFECT_TEST_PYTHON needs celery[redis] beside Prefect, and the machine redis-tools; what is not there
is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from local_servers import REDIS, Redis, free_port
from prefect_definitions import directory
from prefect_definitions.resources import resources
from server import END, PYTHON, Api, alone, needs_release, started, until

SHIPPED = Path(__file__).resolve().parents[2] / "roles/prefect_definitions/files/definitions"

pytestmark = needs_release

SHOP = """
import asyncio, os, pathlib, subprocess, time

def add(*numbers): return sum(numbers)
async def later(value, delay=0.1): await asyncio.sleep(delay); print(f"later {value}"); return value
def fail(): raise ValueError("no stock")
def stubborn(seconds): time.sleep(seconds); return "woke"
def secret(value): assert value == "s3cret"; return len(value)

def meet(*numbers, own, other):
    pathlib.Path(own).touch()
    deadline = time.monotonic() + 180
    while not pathlib.Path(other).exists():
        if time.monotonic() > deadline: raise TimeoutError(f"{other} does not exist")
        time.sleep(0.1)
    return sum(numbers)

class Process:
    def __init__(self, queue): self.queue = queue
    def process(self): return f"{self.queue} is empty"

def flaky(file, times):
    path = pathlib.Path(file)
    tries = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(tries))
    if tries <= times: raise ConnectionError(f"try {tries}")
    return tries
"""

CELERY = """
import os, pathlib, time
from celery import Celery

app = Celery("shop", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_BROKER_URL"])
app.conf.broker_connection_retry_on_startup = True

@app.task(name="shop.price")
def price(ticker, delay=0): time.sleep(delay); return {"ticker": ticker, "price": len(ticker)}

@app.task(name="shop.total")
def total(*prices): return sum(price["price"] for price in prices)

@app.task(name="shop.broken")
def broken(): raise LookupError("no such ticker")

@app.task(name="shop.note")
def note(file, delay):
    path = pathlib.Path(file)
    with path.open("a") as out: out.write("begun\\n")
    time.sleep(delay)
    with path.open("a") as out: out.write("done\\n")
    return "noted"
"""

LOOP = """
import subprocess, time
subprocess.Popen(['sleep', '{0}'], start_new_session=True)
print('began', flush=True)
time.sleep({0})
"""


def task(flow: str, name: str, **more: Any) -> dict[str, Any]:
    return {"flow_name": flow, "name": name, **more}


def python(flow: str, name: str, *args: Any, use: str = "shop:add", **more: Any) -> dict[str, Any]:
    return task(flow, name, use=use, task_args=list(args), **more)


ODD = {"start-date": 1, "class": 2, "2nd": 3}
PARAMETERS = {"diamond": {"start": 2}, "kinds": {"own": "${WHO:you}!", "given": ""}, "sys": ODD, "__x": ODD}


def definitions(place: Path) -> dict[str, Any]:
    """Return the flows that these tests run."""
    retry = {"max_retries": 3, "retry_delay_seconds": 0.1}
    both = [{"result_of": "apple"}, {"result_of": "google"}]
    left = {"own": str(place / "left"), "other": str(place / "right")}
    right = {"own": left["other"], "other": left["own"]}

    def note(file: str, delay: int) -> dict[str, Any]:
        return {"celery_task_name": "shop.note", "task_args": [str(place / file), delay]}

    tasks = [
        python("diamond", "last", {"result_of": "left"}, {"result_of": "right"}),
        python("diamond", "left", {"result_of": "first"}, 10, use="shop:meet", task_kwargs=left),
        python("diamond", "right", {"result_of": "first"}, 20, use="shop:meet", task_kwargs=right, tags=["east"]),
        python("diamond", "first", 1, {"parameter": "start"}),
        python("kinds", "coroutine", "hello", use="shop:later"),
        python("kinds", "class", use="shop:Process", task_kwargs={"queue": "my-queue"}),
        task(
            "kinds",
            "command",
            command=["printf", "%s|", "a b", {"result_of": "coroutine"}, "${WHO:you} $HOME;ls"],
            task_args=[{"parameter": "own"}, {"parameter": "given"}],
        ),
        python("kinds", "filled", "${SHOP_SECRET}", use="shop:secret"),
        python("isolated", "broken", use="shop:fail"),
        python("isolated", "after", 1, depends_on=["broken"]),
        python("isolated", "after_that", 1, depends_on=["after"]),
        python("isolated", "beside", 1),
        python("isolated", "beside_too", 1, depends_on=["beside"]),
        task("isolated", "exit", command="sh -c 'echo going; exit 7'"),
        python("retried", "flaky", str(place / "tries"), 2, use="shop:flaky", retry_config=retry),
        python("late", "blocked", 60, use="shop:stubborn", timeout_seconds=2),
        python("late", "coroutine", "x", 60, use="shop:later", timeout_seconds=2),
        task("late", "command", command=[str(PYTHON), "-c", LOOP.format(61)], timeout_seconds=4),
        task("cancelled", "command", command=[str(PYTHON), "-c", LOOP.format(62)]),
        python("cancelled", "blocked", 600, use="shop:stubborn"),
        python("cancelled", "never", 1, depends_on=["command"]),
        *(python(flow, "<odd>/%", *({"parameter": name} for name in ODD)) for flow in ("sys", "__x")),
        task("stocks", "apple", celery_task_name="shop.price", task_args=["AAPL"]),
        task("stocks", "google", celery_task_name="shop.price", task_kwargs={"ticker": "GOOGL"}),
        task("stocks", "total", celery_task_name="shop.total", task_args=both),
        task("celery_fails", "broken", celery_task_name="shop.broken"),
        task("celery_fails", "unserved", celery_task_name="shop.prise"),
        task("celery_late", "slow", **note("late", 8), timeout_seconds=3),
        task("celery_killed", "note", **note("killed", 15), retry_config=retry, timeout_seconds=90),
        task("celery_restart", "note", **note("restart", 8), timeout_seconds=90),
    ]
    names = dict.fromkeys(item["flow_name"] for item in tasks)
    return {
        "prefect_flows": [{"name": name} for name in names],
        "prefect_tasks": tasks,
        "prefect_deployments": [
            {"name": "example", "flow_name": name, "parameters": PARAMETERS.get(name, {})} for name in names
        ],
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as the role makes it, with callables of its user's."""
    made = Path(shutil.copytree(SHIPPED, tmp_path_factory.mktemp("definitions"), dirs_exist_ok=True))
    (made / "shop.py").write_text(SHOP)
    (made / "shop_celery.py").write_text(CELERY)
    directory.write(made, definitions(made), paths=[])
    return made


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, place: Path) -> dict[str, str]:
    port = free_port()
    (place / ".env").write_text(f'SHOP_SECRET="s3cret"\nCELERY_BROKER_URL="redis://127.0.0.1:{port}/0"\n')
    return {**alone(tmp_path_factory.mktemp("home")), "REDIS_PORT": str(port)}


@pytest.fixture(scope="module")
def api(environment: dict[str, str], place: Path) -> Iterator[Api]:
    """A server with a worker, on which every flow has a deployment."""
    with started(environment, place) as call:
        made = resources(directory.definitions_in(place), directory=place, work_pool="default")
        for deployment in made["prefect_deployments"]:
            flow = call("POST", "/flows/", {"name": deployment.pop("flow")})
            deployment |= {"work_pool_name": deployment.pop("work_pool"), "flow_id": flow["id"]}
            deployment["schedules"] = []
            call("POST", "/deployments/", deployment)
        environment["PREFECT_API_URL"] = call.url
        yield call


def begin(api: Api, flow: str, **parameters: Any) -> str:
    """Start a run of a flow and return its id."""
    deployment = api("GET", f"/deployments/name/{flow}/example")
    return str(api("POST", f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"])


class Run:
    """A flow run that has ended, and its task runs by the names of their tasks."""

    def __init__(self, api: Api, run: str) -> None:
        until(lambda: api.state(run) in END, f"flow run {run} to end")
        self.flow_run = api("GET", f"/flow_runs/{run}")
        self.state = self.flow_run["state"]

        def ended() -> bool:
            wanted = {"flow_runs": {"id": {"any_": [run]}}, "limit": 200}
            rows = api("POST", "/task_runs/filter", wanted)
            self.tasks = {row["name"].rpartition("-")[0]: row for row in rows}
            return all(row["state"] and row["state"]["type"] in {*END, "PENDING"} for row in rows)

        # Task runs arrive by events, a moment later.
        time.sleep(2)
        until(ended, "task runs to arrive")
        self.states = {name: row["state"]["name"] for name, row in self.tasks.items()}
        self.log = api.log(run)

    def time(self, name: str, key: str) -> datetime:
        return datetime.fromisoformat(self.tasks[name][key].replace("Z", "+00:00"))


@pytest.fixture(scope="module")
def runs(api: Api) -> Callable[[str], Run]:
    """The runs of the flows that nothing is done to, started together."""
    names = ("diamond", "isolated", "retried", "late", "sys", "__x")
    begun = {name: begin(api, name) for name in names}
    begun["kinds"] = begin(api, "kinds", given="${SHOP_SECRET} ${UNSET}")
    return lambda name: Run(api, begun[name])


def test_start_order_and_parallelism(runs: Callable[[str], Run]) -> None:
    run = runs("diamond")
    assert run.states == dict.fromkeys(("first", "left", "right", "last"), "Completed")
    assert run.time("first", "end_time") <= min(run.time(name, "start_time") for name in ("left", "right"))
    assert run.time("last", "start_time") >= max(run.time(name, "end_time") for name in ("left", "right"))
    # Left and right have each waited for the other, so they ran at the same time.
    assert run.tasks["right"]["tags"] == ["east"]


def test_every_kind_of_work(runs: Callable[[str], Run]) -> None:
    run = runs("kinds")
    assert run.state["name"] == "Completed", run.log
    assert "later hello" in run.log
    # No shell has seen the words of the command.
    # What stands in the definitions is filled in, and what the person who started the run gave is not.
    assert "a b|hello|you $HOME;ls|you!|${SHOP_SECRET} ${UNSET}|" in run.log
    assert "s3cret" not in json.dumps(run.flow_run) + json.dumps(run.tasks) + run.log


@pytest.mark.parametrize("flow", ["sys", "__x"])
def test_names_need_not_be_pythons(runs: Callable[[str], Run], flow: str) -> None:
    run = runs(flow)
    assert run.state["name"] == "Completed", run.log
    assert run.flow_run["parameters"] == ODD


def test_a_failure_stops_exactly_what_depends_on_it(runs: Callable[[str], Run]) -> None:
    run = runs("isolated")
    assert run.states == {
        "broken": "Failed",
        "after": "NotReady",
        "after_that": "NotReady",
        "beside": "Completed",
        "beside_too": "Completed",
        "exit": "Failed",
    }
    assert run.state["name"] == "Failed"
    assert "2 of 6 tasks failed" in run.state["message"]
    assert "no stock" in run.state["message"]
    assert "Not started: after, after_that" in run.state["message"]
    assert "going" in run.log
    assert "exit code 7" in run.log


def test_retries_are_prefects(runs: Callable[[str], Run]) -> None:
    run = runs("retried")
    assert run.state["name"] == "Completed"
    assert run.tasks["flaky"]["run_count"] == 3


def test_timeouts_apply_to_what_blocks(runs: Callable[[str], Run]) -> None:
    run = runs("late")
    assert run.states == dict.fromkeys(("blocked", "coroutine", "command"), "TimedOut")
    for name in run.tasks:
        assert (run.time(name, "end_time") - run.time(name, "start_time")).total_seconds() < 30
    assert "began" in run.log
    assert not processes("sleep", "61")


def test_a_cancelled_run_ends_what_it_has_begun(api: Api) -> None:
    run = begin(api, "cancelled")
    until(lambda: "began" in api.log(run), "the command to begin")
    assert processes("sleep", "62")
    api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert Run(api, run).state["name"] == "Cancelled"
    until(lambda: not processes("sleep", "62"), "the command's child to end")


def processes(*command: str) -> list[int]:
    """Return the processes of a command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if tuple(path.read_bytes().decode().split("\0")[:-1]) == command:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


class Worker:
    """A worker of the Celery application, of a name that the next one has, too, as that of a unit has."""

    def __init__(self, place: Path, environment: dict[str, str], broker: Redis) -> None:
        url = f"redis://127.0.0.1:{broker.port}/0"
        command = [
            str(PYTHON),
            "-m",
            "celery",
            "-A",
            "shop_celery",
            "worker",
            "--hostname",
            "one@test",
            "--concurrency",
            "2",
        ]
        self.process = subprocess.Popen(
            command, cwd=place, env=environment | {"CELERY_BROKER_URL": url}, start_new_session=True
        )

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def celery(
    api: Api, place: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """A Redis and a Celery worker, which tests end and start again."""
    if REDIS is None or subprocess.run([PYTHON, "-c", "import celery"], check=False).returncode:
        pytest.skip("needs redis-tools, and celery[redis] in the release")
    broker = Redis(
        tmp_path_factory.mktemp("redis"),
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        port=int(environment["REDIS_PORT"]),
    )
    broker.start()
    parts: dict[str, Any] = {"broker": broker, "worker": Worker(place, environment, broker)}
    try:
        yield parts
    finally:
        parts["worker"].kill()
        broker.stop()


def holds(file: Path, text: str) -> bool:
    return file.exists() and text in file.read_text()


def test_celery_does_the_work(api: Api, celery: dict[str, Any]) -> None:
    begun = {name: begin(api, name) for name in ("stocks", "celery_fails", "celery_late")}
    run = Run(api, begun["stocks"])
    assert run.state["name"] == "Completed", run.log
    assert run.states == dict.fromkeys(("apple", "google", "total"), "Completed")

    run = Run(api, begun["celery_fails"])
    assert run.states == {"broken": "Failed", "unserved": "Failed"}
    assert "LookupError: no such ticker" in run.tasks["broken"]["state"]["message"]
    assert 'raise LookupError("no such ticker")' in run.log
    assert "no Celery worker serves shop.prise" in run.tasks["unserved"]["state"]["message"]


def test_celery_is_revoked_when_it_is_late(api: Api, celery: dict[str, Any], place: Path) -> None:
    (place / "late").unlink(missing_ok=True)
    run = Run(api, begin(api, "celery_late"))
    assert run.states == {"slow": "TimedOut"}
    assert "Revoked" in run.log
    time.sleep(8)
    assert not holds(place / "late", "done")


def test_a_killed_celery_worker_loses_nothing(
    api: Api, celery: dict[str, Any], place: Path, environment: dict[str, str]
) -> None:
    run = begin(api, "celery_killed")
    until(lambda: holds(place / "killed", "begun"), "the task to begin")
    # Long enough for the run to have seen who has the task.
    time.sleep(11)
    celery["worker"].kill()
    celery["worker"] = Worker(place, environment, celery["broker"])
    ended = Run(api, run)
    assert ended.state["name"] == "Completed", ended.log
    assert "is lost" in ended.log


def test_a_restarted_redis_loses_nothing(api: Api, celery: dict[str, Any], place: Path) -> None:
    run = begin(api, "celery_restart")
    until(lambda: holds(place / "restart", "begun"), "the task to begin")
    celery["broker"].stop()
    time.sleep(6)
    celery["broker"].start()
    ended = Run(api, run)
    assert ended.state["name"] == "Completed", ended.log
    assert "is away" in ended.log


def test_a_broker_that_is_away_is_waited_for(api: Api, celery: dict[str, Any]) -> None:
    celery["broker"].stop()
    run = begin(api, "stocks")
    until(lambda: "is away" in api.log(run), "the run to miss the broker")
    celery["broker"].start()
    assert Run(api, run).state["name"] == "Completed"
