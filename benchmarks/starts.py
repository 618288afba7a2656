#!/usr/bin/env python3
"""Measure how long a flow run takes to start, and what it costs: workers, environments and `serve()`, in turns.

PREFECT_TEST_PYTHON=RELEASE/bin/python python starts.py [--runs 20] [--at-once 24] [--limit 6] [--ways cold,warm]

One server on SQLite, and for each way a process that looks for flow runs each second. Prints one table: from created to
Running (median and 95th percentile) of runs one after the other; runs a minute of those that are created at once;
processor time of a run; and its share of memory (PSS) while as many as the limit run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "flows"), str(ROOT / "tests")]

from server import END, PYTHON, Api, alone, started, until  # noqa: E402
from test_warm import program_of_environments  # noqa: E402

FLOW = """
import sys, time
from prefect import flow, task

@task
def one():
    return 1

@flow
def starts(seconds: float = 0):
    one()
    time.sleep(seconds)

if __name__ == "__main__":
    starts.serve(sys.argv[1], limit=int(sys.argv[2]))
"""

LAUNCHER = """
import sys
sys.path.insert(0, {lib!r})
from selfhosted_prefect.onhost import launch
del sys.path[0]
launch.main(sys.argv)
"""

TICKS = os.sysconf("SC_CLK_TCK")
WAYS = {
    "cold": "a worker",
    "warm": "a warm worker",
    "woken": "a warm worker that hears of flow runs",
    "cold-environment": "an environment of a worker",
    "environment": "an environment of a warm worker",
    "serve": "`serve()`",
    "warm-serve": "a warm `serve()`",
}


def tree(marks: tuple[str, ...]) -> list[int]:
    """Return the processes whose command line holds all marks, and all that descend from them."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            words = (process / "cmdline").read_text().split("\0")
            if all(mark in words for mark in marks):
                found.add(int(process.name))
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found)


def processor_seconds(pids: list[int]) -> float:
    """Return the processor time of processes and of their children that have ended."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def share_of_memory(pids: list[int]) -> float:
    """Return the proportional set size of processes in MB."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


class Way:
    """One of the ways to run a deployment."""

    def __init__(self, api: Api, name: str, directory: Path, limit: int) -> None:
        self.api, self.name, self.limit = api, name, limit
        is_served = name.endswith("serve")
        self.marks = ("serve.py", name) if is_served else ("--pool", name)
        self.times: list[float] = []
        self.rate = self.processor = self.memory = 0.0
        if is_served:
            until(lambda: bool(self.deployments()), "serve() to register its deployment")
            self.deployment = self.deployments()[0]["id"]
            return
        made = {
            "name": name,
            "flow_id": api("POST", "/flows/", {"name": "starts"})["id"],
            "entrypoint": "serve.py:starts",
            "work_pool_name": name,
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(directory)}}],
            "job_variables": {"command": "prefect-environment etl"} if name.endswith("environment") else {},
        }
        self.deployment = api("POST", "/deployments/", made)["id"]

    def deployments(self) -> list[dict[str, Any]]:
        wanted = {"deployments": {"name": {"any_": [self.name]}}}
        return list(self.api("POST", "/deployments/filter", wanted))

    def create(self, seconds: float = 0) -> str:
        path = f"/deployments/{self.deployment}/create_flow_run"
        return str(self.api("POST", path, {"parameters": {"seconds": seconds}})["id"])

    def finish(self, run: str) -> float:
        """Wait for the end of a run, and return the seconds from its creation until it was Running."""
        until(lambda: self.api.state(run) in END, "a run to end")
        states = self.api("GET", f"/flow_run_states/?flow_run_id={run}")
        assert any(state["type"] == "COMPLETED" for state in states), states
        running = next(state for state in states if state["type"] == "RUNNING")
        created = self.api("GET", f"/flow_runs/{run}")["created"]
        return (moment(running["timestamp"]) - moment(created)).total_seconds()

    def one_after_the_other(self) -> None:
        self.times.append(self.finish(self.create()))

    def at_once(self, number: int) -> None:
        before, begun = processor_seconds(tree(self.marks)), time.monotonic()
        runs = [self.create() for _ in range(number)]
        for run in runs:
            self.finish(run)
        self.rate = 60 * number / (time.monotonic() - begun)
        # The last processes end a moment after their runs.
        time.sleep(3)
        self.processor = (processor_seconds(tree(self.marks)) - before) / number

    def look_at_memory(self) -> None:
        before = share_of_memory(tree(self.marks))
        runs = [self.create(seconds=30) for _ in range(self.limit)]
        until(lambda: {self.api.state(run) for run in runs} == {"RUNNING"}, "all runs to be Running")
        self.memory = (share_of_memory(tree(self.marks)) - before) / self.limit
        for run in runs:
            self.finish(run)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@contextmanager
def served(environment: dict[str, str], directory: Path, url: str, *arguments: str) -> Iterator[None]:
    process = subprocess.Popen([PYTHON, *arguments], env=environment | {"PREFECT_API_URL": url}, cwd=directory)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="runs one after the other (%(default)s)")
    parser.add_argument("--at-once", type=int, default=24, help="runs that are created at once (%(default)s)")
    parser.add_argument("--limit", type=int, default=6, help="runs that run at once (%(default)s)")
    parser.add_argument("--ways", default=",".join(WAYS), help="which ways (%(default)s)")
    arguments = parser.parse_args()
    names = arguments.ways.split(",")
    version = subprocess.check_output([PYTHON, "-c", "import prefect; print(prefect.__version__)"], text=True).strip()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        (directory / "lib").mkdir()
        (directory / "lib" / "selfhosted_prefect").symlink_to(ROOT / "plugins/module_utils")
        (directory / "launcher").write_text(LAUNCHER.format(lib=str(directory / "lib")))
        (directory / "serve.py").write_text(FLOW)
        environment = alone(directory / "home") | {
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_LOGGING_LEVEL": "ERROR",
        }
        cold = [str(PYTHON), str(directory / "launcher")]
        environment["PATH"] = f"{program_of_environments(directory).parent}:{environment['PATH']}"
        warm = [*cold, "--warm", "--environments", str(directory / "opt/environments")]
        launchers = {name: cold if name.startswith("cold") else warm for name in names if not name.endswith("serve")}
        launchers |= {name: [*warm, "--wake=woken"] for name in names if name == "woken"}
        scripts = {"serve": ["serve.py"], "warm-serve": ["launcher", "--warm", "--served", "serve.py"]}
        room = ("--limit", str(arguments.limit))
        with (
            started(environment, directory, launchers=launchers, limit=arguments.limit, options=room) as api,
            ExitStack() as scopes,
        ):
            for name in [name for name in names if name in scripts]:
                more = (name, str(arguments.limit))
                scopes.enter_context(served(environment, directory, api.url, *scripts[name], *more))
            ways = [Way(api, name, directory, arguments.limit) for name in names]
            # The first run in an environment is not warm.
            for way in ways:
                way.finish(way.create())
            for _ in range(arguments.runs):
                for way in ways:
                    way.one_after_the_other()
            for way in ways:
                way.at_once(arguments.at_once)
            for way in ways:
                way.look_at_memory()
    print(f"Prefect {version}, SQLite, {os.cpu_count()} processors, a look for runs each second\n")
    print("| | created to Running: median, s | 95th percentile, s | runs a minute | processor, s | memory (PSS), MB |")
    print("|---|---:|---:|---:|---:|---:|")
    for way in ways:
        late = statistics.quantiles(way.times, n=20)[-1]
        print(
            f"| {WAYS[way.name]} | {statistics.median(way.times):.2f} | {late:.2f} | {way.rate:.0f} "
            f"| {way.processor:.2f} | {way.memory:.0f} |"
        )


if __name__ == "__main__":
    main()
