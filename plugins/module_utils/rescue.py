"""What becomes of the flow runs of a process worker that has ended.

Prefect's worker, told to stop, kills its flow runs and tells nobody: they stay Running for ever, and hold their
concurrency slots (issues 16746 and 22528 of PrefectHQ/prefect). Nor can one that lost its worker end well: it writes to
a pipe that nobody reads. systemd ends it, too, and a worker's unit runs this after it has ended, and before it starts,
for what a power cut left, with the worker's own settings. A flow run whose process lives all the same is let be.

A worker takes a flow run by making it Pending, reads what it needs for it, and writes its own name to it only then. The
name ends in an identity that no other installation has. A worker that ends in between leaves a flow run that is
nobody's: any worker of the pool that ends or starts lets that begin.
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

from .client import Api, ApiError, Failure, moment, quoted
from .status import client_of

THEN: dict[str, dict[str, str]] = {
    "reschedule": {"type": "SCHEDULED", "name": "AwaitingRetry"},
    "crash": {"type": "CRASHED", "name": "Crashed"},
}
"""The state that an interrupted flow run gets. Rescheduled ones begin again, as those of Prefect's workers on
Kubernetes do; whoever has flows that must not be begun twice lets them crash."""

CANCELLED = {"type": "CANCELLED", "name": "Cancelled"}
MESSAGE = "The worker ended, and this flow run with it."
UNEXPECTED = "The worker ended without being stopped"
"""How the message of a state begins where the worker did not end as it should: such states are counted."""

GRACE = 15.0
"""Seconds after which a Pending flow run that is nobody's has lost its worker: more than one takes to read what it
needs."""

PATIENCE = {"start": 60.0, "stop": 10.0}
"""Seconds to wait for an API that is away. A worker has nothing to do without it: at boot the server may come later."""


def begun(api: Api, *, pool: str) -> list[dict[str, Any]]:
    """Return the flow runs that workers of `pool` have taken and that have not ended. Raises ApiError."""
    wanted = {
        "flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}},
        "work_pools": {"name": {"any_": [pool]}},
    }
    # Each gets another state while the pages are read: all are read before.
    return list(api.pages("/flow_runs/filter", wanted))


@dataclass(frozen=True)
class Worker:
    """A worker of a pool, and how its flow runs are known.

    With an `identity`, every name that ends in it is the worker's: the host in front of it may have got another name.
    `formerly` is the name that it had before it had an identity, which a worker of another host may have as well.
    """

    pool: str
    name: str
    identity: str = ""
    formerly: str = ""

    def has(self, name: str) -> bool:
        """Return whether the worker goes, or went, by a name."""
        return name.endswith(f"-{self.identity}") if self.identity else name == self.name


def interrupted(api: Api, worker: Worker, *, alive: set[str]) -> list[dict[str, Any]]:
    """Return the flow runs that `worker` has begun, and that no living process runs. Raises ApiError."""
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
        # What has begun under that name since the worker has its own is another host's.
        known = first_heard(api, worker)
        mine += [run for run in formerly if known is None or moment(run["state"]["timestamp"]) < known]
    return mine


def first_heard(api: Api, worker: Worker) -> datetime | None:
    """Return when the server first heard of a worker by a name with its identity, or None. Raises ApiError."""
    rows = api.pages(f"/work_pools/{quoted(worker.pool)}/workers/filter")
    return min((moment(row["created"]) for row in rows if worker.has(row["name"])), default=None)


def forgotten(api: Api, *, pool: str) -> dict[str, dict[str, Any]]:
    """Return the Pending flow runs of `pool` that no worker has its name on, by the ids of their states."""
    return {
        run["state_id"]: run
        for run in begun(api, pool=pool)
        if run["state_type"] == "PENDING" and "prefect.worker.name" not in run["labels"]
    }


def running(processes: Path = Path("/proc")) -> set[str]:
    """Return the ids of the flow runs that processes of this user run."""
    ids = set()
    for environment in processes.glob("[0-9]*/environ"):
        try:
            variables = environment.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            # It has ended meanwhile, or is somebody else's.
            continue
        for name, _, value in (variable.partition("=") for variable in variables):
            if name == "PREFECT__FLOW_RUN_ID":
                with contextlib.suppress(ValueError):
                    ids.add(str(uuid.UUID(value)))
    return ids


def cause(environment: Mapping[str, str], groups: Path = Path("/sys/fs/cgroup")) -> str:
    """Return why a worker has ended without being stopped, or an empty string where it was stopped.

    `environment` is what systemd sets for what runs after a service, see systemd.exec(5), and nothing before a service.
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
    """Return how many processes of this unit the kernel has killed for memory, as far as it tells."""
    with contextlib.suppress(OSError, ValueError):
        own = re.search(r"^0::/(.*)$", (processes / "self/cgroup").read_text(), re.MULTILINE)
        # Where the unit's cgroup is delegated, this command is in one below it.
        unit = Path(groups, own[1].removesuffix("/.control")) if own else groups
        events = re.search(r"^oom_kill (\d+)$", (unit / "memory.events").read_text(), re.MULTILINE)
        return int(events[1]) if events else 0
    return 0


def rescue(
    api: Api, worker: Worker, *, then: Mapping[str, str], alive: set[str], why: str = "", limit: int | None = None
) -> Iterator[str]:
    """Give every interrupted flow run its state, and yield a line about each. Raises ApiError.

    `why` is the cause where the worker was not stopped. A flow run that this has happened to more than `limit` times
    does not begin again: it may be what ends its worker.
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
                # It has not begun, so it can begin.
                yield move(api, run, THEN["reschedule"], MESSAGE)


def endings(api: Api, run: Mapping[str, Any]) -> int:
    """Return how often a worker has ended without being stopped while it ran a flow run. Raises ApiError."""
    states = api.get(f"/flow_run_states/?flow_run_id={run['id']}")
    return sum(str(state.get("message")).startswith(UNEXPECTED) for state in states)


def move(api: Api, run: Mapping[str, Any], state: Mapping[str, str], message: str) -> str:
    """Give a flow run another state, and return a line about it. Raises ApiError."""
    answer = api.post(f"/flow_runs/{run['id']}/set_state", {"state": {**state, "message": message}})
    if answer["status"] == "ACCEPT":
        return f"flow run {run['name']} was {run['state_name']}: {state['name']} now. {message}"
    return f"flow run {run['name']} stays {run['state_name']}: {answer['details'].get('reason')}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Be the command, and return its exit code: 0, or 1 when the API could not be asked."""
    parser = argparse.ArgumentParser(description="Look after the flow runs of a worker that has ended.")
    parser.add_argument("--pool", required=True)
    parser.add_argument("--worker", required=True)
    # A unit of an earlier version gives none of these.
    parser.add_argument("--identity", default="")
    parser.add_argument("--formerly", default="")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--then", choices=THEN, required=True)
    wanted = parser.parse_args(arguments)
    worker = Worker(pool=wanted.pool, name=wanted.worker, identity=wanted.identity, formerly=wanted.formerly)
    # systemd.exec(5): set for what runs after a service has ended, and only there.
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
                print(f"{wanted.worker}: nobody knows what became of its flow runs: {error}")
                return 1
            time.sleep(1)
