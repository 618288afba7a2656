"""Load on a running Prefect server: what its API answers to many clients at once, and how many flow runs it completes.

Runs on the host, with its own Python. The pool and the deployment hello-flow/example must exist. Prints JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

DEPLOYMENT = "/deployments/name/hello-flow/example"
PATIENCE = 300.0
"""Seconds until we give up on flow runs that do not complete."""

RETRIED = (429, 502, 503)
"""Answers that every client of Prefect asks again after."""


@dataclass
class Client:
    """One client on a connection of its own, and how long each of its requests took, in seconds."""

    port: int
    seconds: list[float] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Return what the API answers, or None where it refused. Raises SystemExit where we are wrong."""
        data = None if body is None else json.dumps(body)
        began = time.perf_counter()
        try:
            self._connection.request(method, f"/api{path}", data, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self.refused += 1
            return None
        if answer.status in RETRIED or answer.status >= 500:
            self.refused += 1
            return None
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {text.decode()}")
        self.seconds.append(time.perf_counter() - began)
        return json.loads(text) if text else True

    def insist(self, method: str, path: str, body: object = None) -> Any:
        """Return what the API answers in the end."""
        while (answer := self.call(method, path, body)) is None:
            time.sleep(0.2)
        return answer


def read(client: Client) -> Iterator[None]:
    """Ask what pages of the UI and workers ask, over and over."""
    flow_run = client.insist("POST", "/flow_runs/filter", {"limit": 1})[0]["id"]
    while True:
        client.call("GET", DEPLOYMENT)
        yield
        client.call("POST", "/flow_runs/filter", {"limit": 20, "sort": "EXPECTED_START_TIME_DESC"})
        yield
        client.call("GET", f"/flow_runs/{flow_run}")
        yield
        client.call("POST", "/work_pools/filter", {})
        yield


def write(client: Client) -> Iterator[None]:
    """Do what flow runs do, over and over: each is made, and goes from state to state."""
    flow = client.insist("POST", "/flows/", {"name": "load"})["id"]
    while True:
        run = client.call("POST", "/flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}})
        yield
        for state in ("RUNNING", "COMPLETED") if run else ():
            client.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": state}})
            yield


def requests(port: int, *, kind: str, clients: int, seconds: float) -> dict[str, float]:
    """Return how many requests were answered in a second, how many were not, and how long an answer took."""

    def work(client: Client) -> Client:
        steps = {"read": read, "write": write}[kind](client)
        next(steps)
        client.seconds.clear()
        client.refused = 0
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            next(steps)
        return client

    with ThreadPoolExecutor(clients) as pool:
        done = list(pool.map(work, [Client(port) for _ in range(clients)]))
    times = [taken for client in done for taken in client.seconds]
    cuts = quantiles(times, n=100) if len(times) > 1 else [float("nan")] * 99
    return {
        f"{kind} a second": len(times) / seconds,
        f"{kind} p50": cuts[49],
        f"{kind} p99": cuts[98],
        f"{kind} refused": sum(client.refused for client in done),
    }


def flow_runs(port: int, *, count: int) -> float:
    """Return how many flow runs complete in a minute, when `count` of them are asked for at once."""
    client = Client(port)
    deployment = client.insist("GET", DEPLOYMENT)["id"]
    began = time.perf_counter()
    waiting = {client.insist("POST", f"/deployments/{deployment}/create_flow_run", {})["id"] for _ in range(count)}
    while waiting:
        time.sleep(0.5)
        wanted = {"flow_runs": {"id": {"any_": sorted(waiting)}}, "limit": 200}
        runs = client.insist("POST", "/flow_runs/filter", wanted)
        waiting -= {run["id"] for run in runs if run["state_type"] == "COMPLETED"}
        lost = [run["name"] for run in runs if run["state_type"] in {"FAILED", "CRASHED", "CANCELLED"}]
        if lost or time.perf_counter() > began + PATIENCE:
            raise SystemExit(f"{lost or sorted(waiting)}: these runs did not complete")
    return count / (time.perf_counter() - began) * 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--flow-runs", type=int, default=6)
    options = parser.parse_args()
    result = {"flow runs": flow_runs(options.port, count=options.flow_runs)}
    for kind in ("read", "write"):
        result |= requests(options.port, kind=kind, clients=options.clients, seconds=options.seconds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
