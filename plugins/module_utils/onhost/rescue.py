"""Cleans up the flow runs of a process worker that has ended.

When Prefect's worker is stopped, it kills its flow runs without reporting it: they stay Running forever, and hold their
concurrency slots (issues 16746 and 22528 of PrefectHQ/prefect). A flow run that lost its worker cannot end well either:
it writes to a pipe that nothing reads. systemd ends it, too. The worker's unit runs this command with the worker's
settings after the worker has ended, and before it starts, for what a power failure left. A flow run whose process is
still alive is left alone.

A worker takes a flow run by setting it to Pending, reads what it needs for it, and only then writes its own name to it.
The name ends in an identity that no other installation has. If a worker ends in between, its flow run has no owner: any
worker of the pool that ends or starts reschedules it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..api.client import Api, ApiError, Failure, moment, quoted
from .status import client_of

THEN: dict[str, dict[str, str]] = {
    "reschedule": {"type": "SCHEDULED", "name": "AwaitingRetry"},
    "crash": {"type": "CRASHED", "name": "Crashed"},
}
"""The state of an interrupted flow run.

Rescheduled flow runs start again, as with Prefect's workers on Kubernetes; choose crash if flows must not start twice.
"""

CANCELLED = {"type": "CANCELLED", "name": "Cancelled"}
MESSAGE = "The worker ended, and this flow run with it."
UNEXPECTED = "The worker ended without being stopped"
"""Start of the message of a state if the worker was not stopped as usual: such states are counted."""

GRACE = 15.0
"""Seconds after which a Pending flow run without an owner has lost its worker.

A worker needs less time to read what it needs.
"""

PATIENCE = {"start": 60.0, "stop": 10.0}
"""Seconds to wait for an unavailable API. A worker needs it anyway, and at boot the server may come up later."""


def begun(api: Api, *, pool: str) -> list[dict[str, Any]]:
    """Return the flow runs that workers of `pool` have taken and that have not ended. Raises ApiError."""
    wanted = {
        "flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}},
        "work_pools": {"name": {"any_": [pool]}},
    }
    # The loop that follows changes their states, so read all pages first.
    return list(api.pages("/flow_runs/filter", wanted))


@dataclass(frozen=True)
class Worker:
    """A worker of a pool, and how its flow runs are identified.

    With an `identity`, every name that ends in it is the worker's: the host name in front of it may have changed.
    `formerly` is its name before it had an identity, which a worker on another host may have, too.
    """

    pool: str
    name: str
    identity: str = ""
    formerly: str = ""

    def has(self, name: str) -> bool:
        """Return whether a name is, or was, the worker's."""
        return name.endswith(f"-{self.identity}") if self.identity else name == self.name


def interrupted(api: Api, worker: Worker, *, alive: set[str]) -> list[dict[str, Any]]:
    """Return the flow runs that `worker` began and that no living process runs. Raises ApiError."""
    mine, formerly = [], []
    for run in begun(api, pool=worker.pool):
        name = run["labels"].get("prefect.worker.name", "")
        if run["id"] in alive:
            continue
        if worker.has(name):
            mine.append(run)
        elif name and name == worker.formerly:
            formerly.append(run)
    if formerly:
        # A run that began under that name after the worker got its identity belongs to another host.
        known = first_heard(api, worker)
        mine += [run for run in formerly if known is None or moment(run["state"]["timestamp"]) < known]
    return mine


def first_heard(api: Api, worker: Worker) -> datetime | None:
    """Return when the server first saw a worker whose name has this identity, or None. Raises ApiError."""
    rows = api.pages(f"/work_pools/{quoted(worker.pool)}/workers/filter")
    return min((moment(row["created"]) for row in rows if worker.has(row["name"])), default=None)


def forgotten(api: Api, *, pool: str) -> dict[str, dict[str, Any]]:
    """Return the Pending flow runs of `pool` without a worker's name, by the ids of their states."""
    return {
        run["state_id"]: run
        for run in begun(api, pool=pool)
        if run["state_type"] == "PENDING" and "prefect.worker.name" not in run["labels"]
    }


def running(processes: Path = Path("/proc")) -> set[str]:
    """Return the ids of the flow runs whose processes belong to this user."""
    ids = set()
    for environment in processes.glob("[0-9]*/environ"):
        try:
            variables = environment.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            # The process has ended, or belongs to another user.
            continue
        for name, _, value in (variable.partition("=") for variable in variables):
            if name == "PREFECT__FLOW_RUN_ID":
                with contextlib.suppress(ValueError):
                    ids.add(str(uuid.UUID(value)))
    return ids


def cause(environment: Mapping[str, str], groups: Path = Path("/sys/fs/cgroup")) -> str:
    """Return why a worker ended without being stopped, or an empty string if it was stopped.

    `environment` is what systemd sets for commands that run after a service, see systemd.exec(5); it sets nothing for
    those before a service.
    """
    result = environment.get("SERVICE_RESULT")
    if result == "success":
        return ""
    if result is None:
        return "its host or its service manager ended"
    if result == "oom-kill" or (environment.get("EXIT_STATUS") == "KILL" and memory_kills(groups)):
        return "it was killed for memory, see prefect_worker_memory_max"
    return f"{result}, {environment.get('EXIT_CODE', '')} {environment.get('EXIT_STATUS', '')}".rstrip(" ,")


def memory_kills(groups: Path, processes: Path = Path("/proc")) -> int:
    """Return how many processes of this unit the kernel has killed for memory; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError):
        own = re.search(r"^0::/(.*)$", (processes / "self/cgroup").read_text(), re.MULTILINE)
        # If the unit's cgroup is delegated, this command runs in one below it.
        unit = Path(groups, own[1].removesuffix("/.control")) if own else groups
        events = re.search(r"^oom_kill (\d+)$", (unit / "memory.events").read_text(), re.MULTILINE)
        return int(events[1]) if events else 0
    return 0


def rescue(
    api: Api, worker: Worker, *, then: Mapping[str, str], alive: set[str], why: str = "", limit: int | None = None
) -> Iterator[str]:
    """Set the state of every interrupted flow run, and yield a line about each. Raises ApiError.

    `why` is the cause if the worker was not stopped. A flow run to which this has happened more than `limit` times is
    not started again: it may be what ends its worker.
    """
    message = f"{UNEXPECTED} ({why}), and this flow run with it." if why else MESSAGE
    for run in interrupted(api, worker, alive=alive):
        if run["state_type"] == "CANCELLING":
            yield move(api, run, CANCELLED, message)
        elif why and then is THEN["reschedule"] and limit is not None and (times := endings(api, run) + 1) > limit:
            last = f"{UNEXPECTED} ({why}), {times} times while it ran this flow run"
            yield move(api, run, THEN["crash"], f"{last}: prefect_worker_interrupted_runs_limit is {limit}.")
        else:
            yield move(api, run, then, message)
    if seen := forgotten(api, pool=worker.pool):
        time.sleep(GRACE)
        for state, run in forgotten(api, pool=worker.pool).items():
            if state in seen:
                # It has not started, so it can be started.
                yield move(api, run, THEN["reschedule"], MESSAGE)


def endings(api: Api, run: Mapping[str, Any]) -> int:
    """Return how often a worker ended without being stopped while it ran a flow run. Raises ApiError."""
    states = api.get(f"/flow_run_states/?flow_run_id={run['id']}")
    return sum(str(state.get("message")).startswith(UNEXPECTED) for state in states)


def move(api: Api, run: Mapping[str, Any], state: Mapping[str, str], message: str) -> str:
    """Set the state of a flow run, and return a line about it. Raises ApiError."""
    answer = api.post(f"/flow_runs/{run['id']}/set_state", {"state": {**state, "message": message}})
    if answer["status"] == "ACCEPT":
        return f"flow run {run['name']} was {run['state_name']}: {state['name']} now. {message}"
    return f"flow run {run['name']} stays {run['state_name']}: {answer['details'].get('reason')}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 1 if the API did not answer."""
    parser = argparse.ArgumentParser(description="Look after the flow runs of a worker that has ended.")
    parser.add_argument("--pool", required=True)
    parser.add_argument("--worker", required=True)
    # The unit of an earlier version passes none of these.
    parser.add_argument("--identity", default="")
    parser.add_argument("--formerly", default="")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--then", choices=THEN, required=True)
    wanted = parser.parse_args(arguments)
    worker = Worker(pool=wanted.pool, name=wanted.worker, identity=wanted.identity, formerly=wanted.formerly)
    # Set only for commands that run after a service has ended, see systemd.exec(5).
    deadline = time.monotonic() + PATIENCE["stop" if "SERVICE_RESULT" in os.environ else "start"]
    while True:
        try:
            with client_of(os.environ) as api:
                doing = rescue(
                    api, worker, then=THEN[wanted.then], alive=running(), why=cause(os.environ), limit=wanted.limit
                )
                for line in doing:
                    print(line)
            return 0
        except Failure as error:
            is_away = isinstance(error, ApiError) and error.status in {None, 502, 503, 504}
            if not is_away or time.monotonic() > deadline:
                print(f"{wanted.worker}: the state of its flow runs is unknown: {error}")
                return 1
            time.sleep(1)
