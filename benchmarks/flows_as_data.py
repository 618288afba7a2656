#!/usr/bin/env python3
"""Measure what a flow costs that is defined as data, beside the same flow written by hand, and what many cost.

Run it with the Python of a release: `python flows_as_data.py [--runs 5] [--tasks 30] [--flows 200]`. Prints two tables:
flows of up to 30 tasks, checked and registered at a fresh server with SQLite, as a host does that follows a database,
and once more when nothing has changed; and a flow in one process, both ways in turns.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HOME = tempfile.TemporaryDirectory()
# Read when Prefect is imported.
os.environ |= {
    "PREFECT_HOME": HOME.name,
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "DO_NOT_TRACK": "1",
}

from prefect import flow, task  # noqa: E402
from prefect.server.api.server import SubprocessASGIServer  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "roles/prefect_definitions/files/definitions"), str(ROOT / "tests/unit")]

from generated import generated  # noqa: E402
from prefect_definitions.flows import flow_of  # noqa: E402
from prefect_definitions.following import Following, place  # noqa: E402
from prefect_definitions.schema import Definitions, rows_of  # noqa: E402

WIDTH = 5
"""Tasks that are side by side: each but the first few waits for the one that many before it."""


def as_data(tasks: int) -> Callable[[], Any]:
    """Return the flow, from definitions."""
    rows = [
        {
            "name": f"t{number}",
            "flow_name": "as_data",
            "use": "operator:add",
            "task_args": [number, 1],
            "depends_on": [f"t{number - WIDTH}"] if number >= WIDTH else [],
        }
        for number in range(tasks)
    ]
    return flow_of(Definitions.of(rows_of({"prefect_flows": [{"name": "as_data"}], "prefect_tasks": rows})), "as_data")


def by_hand(tasks: int) -> Callable[[], Any]:
    """Return the flow, as a person writes it."""

    @task
    def add(a: int, b: int) -> int:
        return a + b

    @flow
    def by_hand() -> list[int]:
        futures: list[Any] = []
        for number in range(tasks):
            before = [futures[number - WIDTH]] if number >= WIDTH else []
            futures.append(add.submit(number, 1, wait_for=before))
        return [future.result() for future in futures]

    return by_hand


def many(flows: int) -> tuple[int, dict[str, float]]:
    """Return how many tasks so many flows have, and the seconds that it takes to apply them, and once more."""
    data = generated(flows) | {"prefect_work_pools": [{"name": "default"}]}
    rows, times = rows_of(data), {}
    with tempfile.TemporaryDirectory() as scratch, SubprocessASGIServer() as server:
        os.environ["PREFECT_API_URL"] = server.api_url
        where = Path(scratch)
        following = Following(
            source="",
            directory=where,
            paths=[],
            work_pool="default",
            inactive="paused",
            owner="bench",
            every=0,
            engine=str(ROOT / "plugins/module_utils"),
        )

        def apply() -> None:
            placed = place(where, rows, paths=[], work_pool="default", inactive="paused")
            following.register(placed["resources"])

        for name in ("applied", "applied unchanged"):
            times[name] = seconds(apply)
        del os.environ["PREFECT_API_URL"]
    return len(data["prefect_tasks"]), times


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--flows", type=int, default=200)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    tasks, applied = many(options.flows)
    print(f"| {options.flows} flows with {tasks} tasks | s |\n| --- | --- |")
    for name, spent in applied.items():
        print(f"| {name} | {spent:.1f} |")
    print()
    ways = {"by hand": by_hand(options.tasks), "as data": as_data(options.tasks)}
    for way in ways.values():
        way()
    # In turns, so that what else the machine does weighs on both.
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.runs):
        for name, way in ways.items():
            times[name].append(seconds(way))
    hand = median(times["by hand"])
    print(f"| {options.tasks} tasks | median | least | a task | of by hand |\n| --- | --- | --- | --- | --- |")
    for name, taken in times.items():
        print(
            f"| {name} | {median(taken):.2f} s | {min(taken):.2f} s | {median(taken) / options.tasks * 1000:.0f} ms "
            f"| {median(taken) / hand:.2f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
