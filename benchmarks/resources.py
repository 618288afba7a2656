#!/usr/bin/env python3
"""Measure how long it takes to create objects in Prefect: with this collection, `prefect deploy`, and bare requests.

Run it with the controller's Python, and name that of a release: `python resources.py .cache/release/bin/python`. Starts
a server on SQLite, and one on PostgreSQL where this machine has that, and prints tables.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from statistics import median
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / ".collections"), str(ROOT / "tests")]

from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api  # noqa: E402
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.reconcile import reconcile  # noqa: E402
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.wishes import Wish  # noqa: E402
from local_servers import POSTGRES, new_database, postgres, prefect_server  # noqa: E402

Object = dict[str, Any]
Lists = dict[str, list[Object]]

RATES = (1, 2, 4, 8)
"""How many requests the bare client has under way at a time: the best one is the floor."""

MIX: dict[str, tuple[int, Callable[[int], Object]]] = {
    "prefect_variables": (25, lambda i: {"name": f"bench_{i}", "value": {"number": i}}),
    "prefect_blocks": (10, lambda i: {"block_type": "secret", "name": f"bench-{i}", "data": {"value": f"word {i}"}}),
    "prefect_global_concurrency_limits": (10, lambda i: {"name": f"bench-{i}", "limit": i + 1}),
    "prefect_tag_concurrency_limits": (10, lambda i: {"tag": f"bench-{i}", "concurrency_limit": i + 1}),
    "prefect_automations": (
        5,
        lambda i: {
            "name": f"bench {i}",
            "trigger": {"expect": ["prefect.flow-run.Failed"], "match": {"prefect.resource.id": f"bench.{i}"}},
            "actions": [{"type": "run-deployment", "deployment": f"bench/{i}"}],
        },
    ),
    "prefect_deployments": (40, lambda i: deployment(i)),
}
"""The percentage of each kind, and the object of a number."""


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def deployment(number: int) -> Object:
    return {
        "flow": "bench",
        "name": str(number),
        "entrypoint": "bench.py:bench",
        "path": "/srv/flows",
        "work_pool": "bench",
        "parameters": {"number": number},
        "tags": ["bench"],
        "schedules": [{"cron": f"{number % 60} 3 * * *", "timezone": "Europe/Berlin"}],
    }


def wanted(*, deployments: int = 0, mixed: int = 0, changed: int = 0) -> Lists:
    """Return a pool and as many deployments, or as many objects of all kinds, of which some are `changed`."""
    lists: Lists = {"prefect_work_pools": [{"name": "bench", "type": "process", "is_paused": True}]}
    lists |= {name: [make(i) for i in range(mixed * share // 100)] for name, (share, make) in MIX.items()}
    for variable in lists["prefect_variables"][:changed]:
        variable["value"] = "changed"
    return lists | ({"prefect_deployments": [deployment(i) for i in range(deployments)]} if deployments else {})


def apply(lists: Lists, url: str) -> Object:
    """Make the server hold what is wanted, and no other object of this owner; measure it."""
    began = time.monotonic()
    with Api(url) as connection:
        report, server = reconcile(connection, lists, Wish(owner="bench", prune=True))
        server.close()
    return {
        "seconds": time.monotonic() - began,
        "requests": report.requests,
        "changes": len(report.plans),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def collection(url: str, **arguments: int) -> Object:
    """Apply in a process of its own, as a module runs, so that only its own memory is measured."""
    command = [sys.executable, __file__, "--apply", json.dumps(arguments), url]
    measured: Object = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return measured


def floor(url: str, number: int, rate: int) -> float:
    """Return the seconds in which bare requests create the same deployments, `rate` at a time."""
    with Api(url) as connection:
        connection.post("/work_pools/", {"name": "floor", "type": "process", "is_paused": True})
        flow = connection.post("/flows/", {"name": "floor"})["id"]
        seconds = send(url, [json.dumps(body) for body in bodies(flow, number)], rate)
        connection.call("DELETE", f"/flows/{flow}")
        connection.call("DELETE", "/work_pools/floor")
    return seconds


def bodies(flow: str, number: int) -> Iterator[Object]:
    """Yield the requests that create the same deployments as this collection does."""
    for i in range(number):
        body = {**deployment(i), "flow_id": flow, "work_pool_name": "floor"}
        body["schedules"] = [{"schedule": each, "active": True} for each in body["schedules"]]
        yield {name: value for name, value in body.items() if name not in {"flow", "work_pool"}}


def send(url: str, requests: list[str], rate: int) -> float:
    """Send requests, `rate` at a time, and return the seconds: endless ones where the server does not bear so many.

    One at a time, a request is sent again while the server is too busy for it: SQLite sometimes is with itself.
    """
    address = urlsplit(url)
    waiting: SimpleQueue[str] = SimpleQueue()
    for body in requests:
        waiting.put(body)
    failures: list[int] = []
    refused = 0

    def work() -> None:
        nonlocal refused
        connection = http.client.HTTPConnection(address.hostname or "", address.port)
        while not failures and (rate == 1 or not refused):
            try:
                body = waiting.get_nowait()
            except Empty:
                return
            try:
                connection.request("POST", f"{address.path}/deployments/", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                refused += 1
                waiting.put(body)
                continue
            if answer.status == 503:
                refused += 1
                waiting.put(body)
            elif answer.status not in {200, 201}:
                failures.append(answer.status)

    began = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(rate)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    if failures:
        raise SystemExit(f"the bare client was answered {failures[0]}")
    return seconds if rate == 1 or not refused else math.inf


def command_line(python: Path, url: str, number: int) -> tuple[float, float]:
    """Return the seconds a deployment by `prefect deploy --all`, and by one command for each."""
    with tempfile.TemporaryDirectory() as directory, Api(url) as connection:
        connection.post("/work_pools/", {"name": "cli", "type": "process", "is_paused": True})
        Path(directory, "bench.py").write_text(
            "from prefect import flow\n\n\n@flow\ndef bench(number: int = 0):\n    return number\n"
        )
        entries = [{**deployment(i), "flow": None, "path": None, "work_pool": {"name": "cli"}} for i in range(number)]
        project = {
            "pull": [{"prefect.deployments.steps.set_working_directory": {"directory": directory}}],
            "deployments": [{name: each for name, each in entry.items() if each is not None} for entry in entries],
        }
        Path(directory, "prefect.yaml").write_text(json.dumps(project))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))},
            "PREFECT_HOME": f"{directory}/home",
            "PREFECT_API_URL": url,
            "DO_NOT_TRACK": "1",
        }
        prefect = [str(python.with_name("prefect")), "--no-prompt", "deploy"]

        def seconds(*arguments: str) -> float:
            began = time.monotonic()
            subprocess.run(
                [*prefect, *arguments], cwd=directory, env=environment, stdout=subprocess.DEVNULL, check=True
            )
            return time.monotonic() - began

        alone = median(seconds("--name", str(i)) for i in range(3))
        together = seconds("--all") / number
        connection.call("DELETE", f"/flows/{connection.get('/flows/name/bench')['id']}")
        connection.call("DELETE", "/work_pools/cli")
    return together, alone


def deployments(python: Path, url: str, *, number: int, runs: int) -> str:
    """Measure deployments, in turns, and return a table."""
    times = {rate: floor(url, number, rate) for rate in RATES}
    best = min(times, key=lambda rate: times[rate])
    bare, first, again = [], [], []
    for run in range(runs):
        say(f"{number} deployments, {run + 1} of {runs}")
        bare.append(floor(url, number, best))
        first.append(collection(url, deployments=number))
        again.append(collection(url, deployments=number))
        collection(url)
    few = 20
    say(f"prefect deploy, {few} deployments")
    together, alone = command_line(python, url, few)
    least, us = median(bare), middle(first, "seconds")
    each = us / number
    rows = [
        [f"floor: bare requests, {best} at a time", least, least / number * 1000, number, 1 / (us / least)],
        ["this collection, first apply", us, each * 1000, middle(first, "requests"), 1.0],
        ["this collection, nothing to change", middle(again, "seconds"), "", middle(again, "requests"), ""],
        [f"`prefect deploy --all`, {few} of them", together * few, together * 1000, "", together / each],
        ["`prefect deploy --name`, one of them", alone, alone * 1000, "", alone / each],
    ]
    head = [f"{number} deployments with a schedule", "s", "a deployment, ms", "requests", "relative to this collection"]
    text = table(head, rows)
    return (
        f"{text}\n\nThis collection / floor: {us / least:.2f}. "
        f"`prefect deploy` / this collection: {together / each:.0f}, {alone / each:.0f}."
    )


def mixed(url: str, *, number: int) -> str:
    """Measure objects of all kinds, and return a table."""
    say(f"{number} objects of all kinds")
    measured = {
        "first apply": collection(url, mixed=number),
        "nothing to change": collection(url, mixed=number),
        "one change": collection(url, mixed=number, changed=1),
        "half of them pruned": collection(url, mixed=number // 2, changed=1),
    }
    collection(url)
    if measured["nothing to change"]["changes"]:
        raise SystemExit("bench: there were changes where nothing was to change")
    rows = [[name, *(each[about] for about in ("seconds", "requests", "megabytes"))] for name, each in measured.items()]
    return table([f"{number} objects of all kinds", "s", "requests", "MB"], rows)


def middle(measured: list[Object], about: str) -> Any:
    return median(each[about] for each in measured)


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Return a Markdown table."""

    def line(cells: list[Any]) -> str:
        return f"| {' | '.join(f'{cell:.2f}' if isinstance(cell, float) else str(cell) for cell in cells)} |"

    return "\n".join([line(head), line(["---"] + ["---:"] * (len(head) - 1)), *map(line, rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", metavar="PYTHON", help="the Python of a release")
    parser.add_argument("--deployments", type=int, default=200)
    parser.add_argument("--mixed", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--apply", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.apply is not None:
        print(json.dumps(apply(wanted(**arguments.apply), arguments.where)))
        return
    python = Path(arguments.where).absolute()
    for name in arguments.databases.split(","):
        if name == "postgresql" and not POSTGRES.exists():
            say("there is no PostgreSQL on this machine")
            continue
        with ExitStack() as stack:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            database = ""
            if name == "postgresql":
                database = stack.enter_context(new_database(stack.enter_context(postgres())))
            url = stack.enter_context(prefect_server(python, home, database=database))
            print(f"{name}\n")
            print(deployments(python, url, number=arguments.deployments, runs=arguments.runs), end="\n\n")
            print(mixed(url, number=arguments.mixed), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
