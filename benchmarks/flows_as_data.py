#!/usr/bin/env python3
"""Measure what a flow costs that is defined as data, beside the same flow written by hand, in one process.

Run it with the Python of a release: `python flows_as_data.py [--runs 5] [--tasks 30]`. Prints a table. Where
PREFECT_API_URL is set, that server is used, otherwise a temporary one.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from prefect import flow, task

PACKAGE = Path(__file__).resolve().parent.parent / "roles/prefect_definitions/files/definitions"
sys.path.insert(0, str(PACKAGE))

from prefect_definitions.flows import flow_of  # noqa: E402
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


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=30)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
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
