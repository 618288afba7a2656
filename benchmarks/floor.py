"""A host with uv to its first completed flow run, with nothing but that: what no operator and no tool can go below.

Everything that need not wait for something else does not. Runs on the host, with its own Python, in a directory that
holds uv, lock.txt and hello_flow.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

API = "http://127.0.0.1:4200/api"
PATIENCE = 180.0
"""Seconds until we give up on something that does not come."""


def say(stage: str) -> None:
    print(f"== {stage}", flush=True)


def call(method: str, path: str, body: object = None) -> Any:
    """Return what the API answers; errors are those of `urllib.request`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API + path, data, {"Content-Type": "application/json"}, method=method)
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            # SQLite is locked for a moment now and then, and nothing was done.
            if error.code != 503 or path == "/ready":
                raise
            time.sleep(0.1)


def ready() -> bool:
    try:
        return call("GET", "/ready") is not None
    except OSError:
        return False


def background(*command: str) -> None:
    """Start a program that outlives us."""
    with Path(f"{command[1]}.log").open("w") as log:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def main() -> None:
    deadline = time.monotonic() + PATIENCE

    say("uv pip sync")
    subprocess.run(["./uv", "venv", "--quiet", "venv"], check=True)
    sync = ["./uv", "pip", "sync", "--quiet", "--python", "venv/bin/python", "--require-hashes", "lock.txt"]
    subprocess.run(sync, check=True)

    say("server and worker")
    os.environ["PREFECT_API_URL"] = API
    background("venv/bin/prefect", "server", "start")
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(Path("server.log").read_text())
        time.sleep(0.1)
    call("POST", "/work_pools/", {"name": "default", "type": "process"})
    background("venv/bin/prefect", "worker", "start", "--pool", "default", "--type", "process")

    say("a deployment and its run")
    flow = call("POST", "/flows/", {"name": "hello-flow"})
    deployment = {
        "name": "example",
        "flow_id": flow["id"],
        "work_pool_name": "default",
        "entrypoint": "hello_flow.py:hello_flow",
        "path": str(Path.cwd()),
        "enforce_parameter_schema": False,
    }
    deployed = call("POST", "/deployments/", deployment)
    run = call("POST", f"/deployments/{deployed['id']}/create_flow_run", {})
    while (state := run["state_type"]) != "COMPLETED":
        if state in {"FAILED", "CRASHED", "CANCELLED"} or time.monotonic() > deadline:
            raise SystemExit(f"the run is {state}\n{Path('worker.log').read_text()}")
        time.sleep(0.1)
        run = call("GET", f"/flow_runs/{run['id']}")


if __name__ == "__main__":
    main()
